"""A TCMU device that somebody else made: containerd's snapshotter, and overlaybd-tcmu's stand-in.

Its content is random and known block by block, in a file that the stand-in serves, and as an image
that obdsup serves: whoever has the ring, the disk reads the same.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from chaos.rig.node import Node, wait_until
from chaos.rig.problem import REPO, RigError, run
from chaos.rig.victim import BLOCK_BYTES
from guest.foreign.maker import HBA, ForeignMaker

__all__ = ["BlockReader", "ForeignDaemon", "ForeignDisk"]

BLOCK_CNT = 512
NUMBERS = 700  # of devices: far from those of the guest's checks


class ForeignDisk:
    """Files, the device in configfs and its disk; a context manager that takes it away again.

    Args:
        folder: scratch of its own.
        number: of the device, as its maker counts.
    """

    def __init__(self, node: Node, folder: Path, number: int, chance: random.Random) -> None:
        self._node = node
        self.patience_s = node.patience_s
        self.blocks = [chance.randbytes(BLOCK_BYTES) for _ in range(BLOCK_CNT)]
        self.backing = folder / "foreign.raw"
        self._folder = folder
        self._config = folder / "foreign.config.v1.json"
        self._maker = ForeignMaker(NUMBERS + number, self._config)
        self.name = self._maker.name
        self.disk = Path()

    def __enter__(self) -> Self:
        """Makes the files; the device is made by ``create`` and shown by ``show``."""
        self.backing.write_bytes(b"".join(self.blocks))
        layer, data, index = (self._folder / f"foreign.{part}" for part in ("obd", "data", "index"))
        self._node.obdsup("image", "import", str(self.backing), "-o", str(layer), "--force")
        for file in (data, index):
            file.unlink(missing_ok=True)
        size = ["--size", str(self.backing.stat().st_size)]
        self._node.obdsup("image", "new-upper", *size, str(data), str(index))
        upper = {"data": str(data), "index": str(index)}
        config = {"repoBlobUrl": "", "lowers": [{"file": str(layer)}], "upper": upper}
        self._config.write_text(json.dumps(config))
        return self

    def create(self, *options: str) -> None:
        """As the snapshotter does; waits for whoever listens, unless an option says otherwise.

        Raises:
            RigError: it was refused.
        """
        try:
            self._maker.create(*options)
        except OSError as error:
            raise RigError(f"device {self.name} in configfs: {error.strerror}") from error

    def show(self) -> None:
        """Links it to tcm_loop; whoever has the ring must answer."""
        self.disk = self._maker.link()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Takes the device away; it is adopted for that where nobody serves it.

        Raises:
            RigError: that failed, or the supervisor does not forget it.
        """
        if not self._maker.core.is_dir():
            return
        if self._maker.is_enabled and self._node.device_row(self.name) is None:
            self._node.obdsup("adopt", self.name)
        run(
            [sys.executable, "-m", "guest.foreign.maker", "remove", self.name],
            what=f"remove {self.name} from configfs", timeout_s=self._node.patience_s, cwd=REPO,
        )  # fmt: skip
        wait_until(
            lambda: self._node.device_row(self.name) is None,
            self._node.patience_s,
            f"device {self.name} forgotten",
        )


class ForeignDaemon:
    """The stand-in of overlaybd-tcmu as a process; killed at the end of its block."""

    def __init__(self, disk: ForeignDisk, *options: str) -> None:
        self._patience_s = disk.patience_s
        self._child = subprocess.Popen(
            [
                sys.executable, "-m", "guest.foreign.daemon", str(HBA), disk.name,
                str(disk.backing), "--wait", *options,
            ],
            cwd=REPO, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, bufsize=0,
        )  # fmt: skip

    def __enter__(self) -> Self:
        self.wait_for("running")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        return self._child.pid

    def wait_for(self, line: str) -> None:
        """Waits until it says so.

        Raises:
            RigError: it ended, said something else, or says nothing.
        """
        assert self._child.stdout is not None
        if not select.select([self._child.stdout], [], [], self._patience_s)[0]:
            raise RigError(f"the stand-in of overlaybd-tcmu does not say {line!r}")
        found = self._child.stdout.readline().decode().strip()
        if found != line:
            raise RigError(f"the stand-in of overlaybd-tcmu said {found!r} instead of {line!r}")

    def kill(self) -> None:
        """SIGKILL; fine when it is dead."""
        if self._child.poll() is None:
            self._child.send_signal(signal.SIGKILL)
        self._child.wait()
        if self._child.stdout is not None:
            self._child.stdout.close()


class BlockReader:
    """Reads random blocks past every cache, over and over, and compares; a thread of its own.

    Args:
        disk: shown.
        left_out: blocks that are written meanwhile.
    """

    def __init__(
        self, disk: ForeignDisk, chance: random.Random, left_out: frozenset[int] = frozenset()
    ) -> None:
        self.rounds = 0
        self.wrong: list[str] = []
        self._disk = disk
        self._numbers = [n for n in range(BLOCK_CNT) if n not in left_out]
        self._chance = random.Random(chance.random())
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="foreign-reader", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends it, unless it hangs in a read: its thread does not outlive the process."""
        self._end.set()
        self._thread.join(0.0 if error else self._disk.patience_s)

    def wait_for_more(self, what: str) -> int:
        """Waits until some more blocks were read; how many reads there were meanwhile.

        Raises:
            RigError: not within the patience.
        """
        before = self.rounds
        wait_until(
            lambda: bool(self.wrong) or self.rounds >= before + 8,
            self._disk.patience_s,
            f"reads of {self._disk.name} {what}",
        )
        return self.rounds - before

    def _run(self) -> None:
        fd = os.open(self._disk.disk, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
        try:
            with mmap.mmap(-1, BLOCK_BYTES) as buffer:
                while not self._end.is_set() and not self.wrong:
                    self._read_one(fd, buffer)
        finally:
            os.close(fd)

    def _read_one(self, fd: int, buffer: mmap.mmap) -> None:
        number = self._chance.choice(self._numbers)
        try:
            os.preadv(fd, [buffer], number * BLOCK_BYTES)
        except OSError as error:
            self.wrong.append(f"{self._disk.name} block {number}: {error.strerror}")
            return
        if buffer[:] != self._disk.blocks[number]:
            self.wrong.append(f"{self._disk.name} block {number}: other bytes")
        self.rounds += 1
        self._end.wait(0.005)
