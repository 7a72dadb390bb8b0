"""The load of a recording on a raw device: stamped writes, discards, FUA, flushes, from threads.

Each thread has a stripe of its own, so that the order of the versions of a sector is known.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import random
import struct
import threading
from collections.abc import Callable

from chaos.power.stamps import SECTOR_BYTES, Change, stamped

__all__ = ["DiskLoad"]

THREADS = 3
STRIPE_SECTORS = 2048
MAX_SECTORS = 256
LATE_PAUSE_S = 0.3  # the disk is small
PAUSE_S = 0.01  # leaves the guest's processors time for supervisor and standbys
_BLKDISCARD = 0x1277
_SIZES = (1, 1, 2, 3, 5, 8, 8, 16, 64, MAX_SECTORS)


class DiskLoad:
    """Writes until it is stopped; after ``operations`` changes a thread goes on little and slowly.

    Args:
        path: the block device.
        mark: sets a mark in the log of writes.
    """

    def __init__(self, path: str, operations: int, seed: int, mark: Callable[[str], None]) -> None:
        self.changes: list[Change] = []
        self.completed: list[int] = []
        self.errors: list[str] = []
        self._path = path
        self._operations = operations
        self._seed = seed
        self._mark = mark
        self._lock = threading.Lock()
        self._is_stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(number,), name=f"disk-{number}")
            for number in range(THREADS)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Returns when the operations under way are answered."""
        self._is_stopping.set()
        for thread in self._threads:
            thread.join()

    def is_running(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def _run(self, number: int) -> None:
        chance = random.Random(f"{self._seed}/{number}")
        fd = os.open(self._path, os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
        buffer = mmap.mmap(-1, MAX_SECTORS * SECTOR_BYTES)  # page-aligned, as O_DIRECT wants
        try:
            done = 0
            while not self._is_stopping.wait(PAUSE_S if done < self._operations else LATE_PAUSE_S):
                cnt = chance.choice(_SIZES) if done < self._operations else 1
                self._change(fd, buffer, number, cnt, chance)
                done += 1
                if chance.random() < 0.08:
                    self._flush(fd)
        except OSError as error:
            self.errors.append(f"{threading.current_thread().name}: {error}")
        finally:
            os.close(fd)

    def _change(
        self, fd: int, buffer: mmap.mmap, number: int, cnt: int, chance: random.Random
    ) -> None:
        lba = number * STRIPE_SECTORS + chance.randrange(STRIPE_SECTORS - cnt)
        dice = chance.random()
        is_discard, is_fua = dice < 0.05, dice > 0.93
        with self._lock:
            change = Change(len(self.changes) + 1, lba, cnt, is_discard)
            self.changes.append(change)
        if is_discard:
            place = struct.pack("=QQ", lba * SECTOR_BYTES, cnt * SECTOR_BYTES)
            fcntl.ioctl(fd, _BLKDISCARD, place)
        else:
            length = cnt * SECTOR_BYTES
            buffer[:length] = stamped(lba, cnt, change.version)
            flags = os.RWF_DSYNC if is_fua else 0
            written = os.pwritev(fd, [memoryview(buffer)[:length]], lba * SECTOR_BYTES, flags)
            if written != length:
                raise OSError(f"{written} of {length} bytes written at sector {lba}")
            if is_fua:
                self._mark(f"fua {change.version}")
        with self._lock:
            self.completed.append(change.version)

    def _flush(self, fd: int) -> None:
        with self._lock:
            before = len(self.completed)
        os.fdatasync(fd)
        self._mark(f"disk {before}")
