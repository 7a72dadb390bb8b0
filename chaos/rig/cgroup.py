"""A memory cgroup of a run's own, version 1 or 2: one process is put in, and may use no more."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from chaos.rig.problem import RigError
from chaos.rig.process import Process

__all__ = ["MemoryCgroup", "oom_kill_count"]

REMOVE_TIMEOUT_S = 10.0


def oom_kill_count(text: str) -> int:
    """``oom_kill`` of a memory.oom_control (version 1) or memory.events (version 2)."""
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name == "oom_kill":
            return int(value)
    raise RigError(f"no oom_kill in {text!r}: this kernel does not count OOM kills of a cgroup")


def _mounted(kind: str, controller: str) -> Path | None:
    """Where a cgroup hierarchy with this controller is mounted."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, point, found, options, *_ = line.split()
        if found != kind:
            continue
        if kind == "cgroup" and controller in options.split(","):
            return Path(point)
        if kind == "cgroup2" and controller in (Path(point) / "cgroup.controllers").read_text():
            return Path(point)
    return None


class MemoryCgroup:
    """A cgroup without a limit, a child of the root; a context manager that removes it again.

    A process that is still in it when it is left goes back to where it came from.
    """

    def __init__(self, name: str) -> None:
        version2 = _mounted("cgroup2", "memory")
        version1 = _mounted("cgroup", "memory")
        root = version2 or version1
        if root is None:
            raise RigError("no cgroup hierarchy with the memory controller is mounted")
        self._is_version2 = version2 is not None
        self._root = root
        self._folder = root / name
        self._came_from: dict[Process, Path] = {}

    def __enter__(self) -> Self:
        """Makes it.

        Raises:
            RigError: the kernel refuses.
        """
        try:
            if self._is_version2:
                (self._root / "cgroup.subtree_control").write_text("+memory")
            self._folder.mkdir(exist_ok=True)
        except OSError as error:
            raise RigError(f"cgroup {self._folder} can not be made: {error}") from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process, folder in self._came_from.items():
            if process.is_alive():
                with suppress(OSError):
                    self.limit(-1)
                    (folder / "cgroup.procs").write_text(str(process.pid))
        deadline = time.monotonic() + REMOVE_TIMEOUT_S
        while self._folder.is_dir():
            try:
                self._folder.rmdir()
            except OSError as refusal:  # the dead process is still being taken apart
                if time.monotonic() > deadline:
                    raise RigError(f"cgroup {self._folder} stays: {refusal}") from refusal
                time.sleep(0.01)

    def take(self, process: Process) -> None:
        """Puts the process with all its threads in; what it used before stays charged elsewhere.

        Raises:
            RigError: it is gone, or the kernel refuses.
        """
        try:
            self._came_from[process] = self._folder_of(process)
            (self._folder / "cgroup.procs").write_text(str(process.pid))
        except OSError as error:
            raise RigError(f"process {process.pid} into {self._folder}: {error}") from error

    def limit(self, limit_bytes: int) -> None:
        """What all in it may use together from now on; -1 is no limit."""
        if self._is_version2:
            text = "max" if limit_bytes < 0 else str(limit_bytes)
            (self._folder / "memory.max").write_text(text)
        else:
            (self._folder / "memory.limit_in_bytes").write_text(str(limit_bytes))

    def oom_kills(self) -> int:
        """How many of its processes the kernel's OOM killer has killed."""
        name = "memory.events" if self._is_version2 else "memory.oom_control"
        return oom_kill_count((self._folder / name).read_text())

    def _folder_of(self, process: Process) -> Path:
        for line in Path(f"/proc/{process.pid}/cgroup").read_text().splitlines():
            number, controllers, path = line.split(":", 2)
            is_ours = number == "0" if self._is_version2 else "memory" in controllers.split(",")
            if is_ours:
                return self._root / path.lstrip("/")
        raise RigError(f"/proc/{process.pid}/cgroup names no memory cgroup")
