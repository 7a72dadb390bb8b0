"""Devices that change hands with overlaybd-tcmu while they are read and written (provider tcmu).

The device is the fault's own, made in configfs as containerd's snapshotter does it; a stand-in
plays overlaybd-tcmu (``guest.foreign``).
"""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from chaos.faults.base import Landing, Need, Site
from chaos.faults.environment import Watch
from chaos.rig.foreign_disk import BlockReader, ForeignDaemon, ForeignDisk
from chaos.rig.problem import RigError
from chaos.rig.victim import BLOCK_BYTES

__all__ = ["Adopt", "Release"]

NEEDS = frozenset({Need.ROOT, Need.BLOCK_DEVICE, Need.SUPERVISED})
NUMBERS = 100
# The kernel does not wait for an answer that overlaybd-tcmu's stand-in does not give.
NO_ANSWER = "nl_reply_supported=-1"


class Adopt:
    kind = "adopt"
    about = (
        "overlaybd-tcmu dies with a read and a write in flight; `obdsup adopt` goes on with both"
    )
    needs = NEEDS

    def inflict(self, site: Site, chance: random.Random) -> Landing:
        watch, wrong = Watch(site), list[str]()
        written, content = chance.randrange(8), chance.randbytes(BLOCK_BYTES)
        with _folder(site) as folder, ExitStack() as stack:
            disk = ForeignDisk(site.node, folder, chance.randrange(NUMBERS), chance)
            stack.enter_context(disk)
            daemon = stack.enter_context(ForeignDaemon(disk, "--hold-writes"))
            disk.create(NO_ANSWER)
            daemon.wait_for("ready")
            disk.show()
            reader = stack.enter_context(BlockReader(disk, chance, frozenset({written})))
            reader.wait_for_more("served by the stand-in")
            writer = _Writer(disk.disk, written, content)
            writer.start()
            daemon.wait_for("holding")
            watch.strike_now()
            daemon.kill()
            was_in_flight = writer.is_alive()
            # a listener that had no processor until now finds nobody who serves it, and does
            is_asked_for = site.node.device_row(disk.name) is None
            if is_asked_for:
                site.node.obdsup("adopt", disk.name)
            reader.wait_for_more("after the adoption")
            served_ns = time.monotonic_ns()
            wrong += writer.findings(site.patience_s)
            disk.blocks[written] = content
            wrong += _misread(disk, [written]) + reader.wrong
        watch.wait_until_it_goes_on()
        return watch.landing(
            has_landed=was_in_flight and is_asked_for,
            evidence="a write was in flight when the stand-in died; it and the reads went on",
            wrong=wrong,
            served_ns=served_ns,
        )


class Release:
    kind = "release"
    about = "`obdsup release` hands a device to overlaybd-tcmu under reads, `adopt` takes it back"
    needs = NEEDS

    def inflict(self, site: Site, chance: random.Random) -> Landing:
        watch = Watch(site)
        with _folder(site) as folder, ExitStack() as stack:
            site.node.obdsup("adopt", "--all")  # it listens from then on, if it did not before
            disk = ForeignDisk(site.node, folder, chance.randrange(NUMBERS), chance)
            stack.enter_context(disk)
            disk.create()
            disk.show()
            reader = stack.enter_context(BlockReader(disk, chance))
            reader.wait_for_more("served by obdsup")
            watch.strike_now()
            site.node.obdsup("release", disk.name)
            is_forgotten = site.node.device_row(disk.name) is None
            with ForeignDaemon(disk) as daemon:
                daemon.wait_for("ready")
                read_cnt = reader.wait_for_more("after the release")
            rows = site.node.obdsup("adopt", disk.name)
            reader.wait_for_more("after it was adopted again")
            served_ns = time.monotonic_ns()
            wrong = list(reader.wrong)
        if not is_forgotten:
            wrong.append(f"device {disk.name} is listed after its release")
        watch.wait_until_it_goes_on()
        return watch.landing(
            has_landed=read_cnt > 0 and [row["outcome"] for row in rows] == ["adopted"],
            evidence=f"{read_cnt} reads answered by the stand-in, the next ones by obdsup again",
            wrong=wrong,
            served_ns=served_ns,
        )


class _Writer(threading.Thread):
    """One write past every cache, which ends whenever somebody answers it."""

    def __init__(self, disk: Path, block: int, content: bytes) -> None:
        super().__init__(name="foreign-writer", daemon=True)
        self._disk, self._block, self._content = disk, block, content
        self._failure = ""

    def run(self) -> None:
        fd = os.open(self._disk, os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
        try:
            with mmap.mmap(-1, len(self._content)) as buffer:
                buffer.write(self._content)
                os.pwritev(fd, [buffer], self._block * len(self._content))
        except OSError as error:
            self._failure = f"the write in flight failed: {error.strerror}"
        finally:
            os.close(fd)

    def findings(self, timeout_s: float) -> list[str]:
        """Waits for its end.

        Raises:
            RigError: it does not end.
        """
        self.join(timeout_s)
        if self.is_alive():
            raise RigError(f"the write in flight is not answered within {timeout_s:.0f} s")
        return [self._failure] if self._failure else []


def _misread(disk: ForeignDisk, numbers: list[int]) -> list[str]:
    """One line for each block that does not read as it must."""
    found = []
    fd = os.open(disk.disk, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    try:
        with mmap.mmap(-1, BLOCK_BYTES) as buffer:
            for number in numbers:
                os.preadv(fd, [buffer], number * BLOCK_BYTES)
                if buffer[:] != disk.blocks[number]:
                    found.append(f"{disk.name} block {number}: other bytes than were written")
    finally:
        os.close(fd)
    return found


@contextlib.contextmanager
def _folder(site: Site) -> Iterator[Path]:
    """Scratch of one fault, gone afterwards."""
    path = site.folder / "foreign"
    path.mkdir(parents=True, exist_ok=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
