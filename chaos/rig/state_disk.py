"""The state directory's database on a small disk of its own, for a while, under a living node.

The supervisor is stopped for each move; workers serve on. Writable layers below the state
directory stay where they are: they are seen through a bind mount under the same paths.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from pathlib import Path
from types import TracebackType
from typing import Self

from chaos.rig.node import Node, wait_until
from chaos.rig.problem import run
from chaos.rig.small_disk import SmallDisk
from chaos.rig.supervision import stop_supervisor

__all__ = ["DATABASE_NAMES", "StateDisk"]

DATABASE_NAMES = ("state.db", "state.db-wal", "state.db-shm")


class StateDisk:
    """A context manager: inside, STATE/state.db lies on ``disk``.

    Args:
        node: its supervisor is killed and started again on entering and on leaving.
        folder: scratch, made here.
        size_mib, kind: as ``SmallDisk``.
    """

    def __init__(self, node: Node, folder: Path, size_mib: int, kind: str) -> None:
        self.disk = SmallDisk(folder / "small", size_mib, kind)
        self._node = node
        self._original = folder / "original"
        self._mounted: list[Path] = []

    def __enter__(self) -> Self:
        """Moves the database.

        Raises:
            RigError: a mount was refused, or the supervisor does not come back.
        """
        state, node = self._node.state_dir, self._node
        stop_supervisor(node)
        try:
            self._bind(state, self._original)
            self.disk.__enter__()
            _copy(self._original, self.disk.mount_point)
            _empty_log(self.disk.mount_point / DATABASE_NAMES[0])
            for entry in self._original.iterdir():
                if entry.is_dir():
                    (self.disk.mount_point / entry.name).mkdir(exist_ok=True)
            self._bind(self.disk.mount_point, state)
            for entry in self._original.iterdir():
                if entry.is_dir():
                    self._bind(entry, state / entry.name)
            self._start()
        except BaseException:
            self._move_back()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        stop_supervisor(self._node)
        self._move_back()

    def _move_back(self) -> None:
        if self._node.state_dir in self._mounted:
            _copy(self.disk.mount_point, self._original)
        while self._mounted:
            _unmount(self._mounted.pop())
        self.disk.__exit__(None, None, None)
        self._start()

    def _start(self) -> None:
        self._node.start_supervisor()
        wait_until(self._node.is_answering, self._node.patience_s, "the supervisor answers")

    def _bind(self, source: Path, target: Path) -> None:
        target.mkdir(parents=True, exist_ok=True)
        run(["mount", "--bind", source, target], what=f"bind {source}")
        # or a mount made below one of them would show up below the other
        run(["mount", "--make-private", target], what=f"keep {target} to itself")
        self._mounted.append(target)


def _copy(source: Path, target: Path) -> None:
    """The database as it is, with what is not yet in its main file; nobody has it open."""
    for name in DATABASE_NAMES:
        (target / name).unlink(missing_ok=True)
        if (source / name).is_file() and name != "state.db-shm":  # an index SQLite makes anew
            shutil.copyfile(source / name, target / name)


def _empty_log(database: Path) -> None:
    """Moves what is in the log into the main file. SQLite writes a log that was long once from its
    beginning again: it would not need room on the disk for as long as a run lasts."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _unmount(target: Path) -> None:
    # Lazily: workers have files open through a bind mount, and keep them.
    run(["umount", "--lazy", target], what=f"unmount {target}")
