"""A reader beside redis: O_DIRECT reads of a file of the image, compared with the same file here.

Redis mostly writes. This keeps reads of the sealed layers in flight too, past the page cache.
"""

from __future__ import annotations

import mmap
import os
import random
import time
from pathlib import Path

from chaos.rig.latency import Operation
from chaos.workloads.redis.checker import ERRORS_UNTIL_GIVING_UP, Checker

__all__ = ["DirectReader"]

ALIGNMENT_BYTES = 4096
MAX_READ_BYTES = 128 * 1024


class DirectReader(Checker):
    """Reads random blocks of ``path`` past the page cache and compares them with ``copy``."""

    def __init__(self, path: Path, copy: Path, seed: int, pause_s: float) -> None:
        super().__init__("direct-reader")
        self._path = path
        self._pause_s = pause_s
        self._expected = copy.read_bytes()
        self._random = random.Random(f"{seed}/reader")

    def run(self) -> None:
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
        except OSError as error:
            self.errors.append(f"open {self._path}: {error}")
            return
        try:
            # O_DIRECT wants an aligned buffer: anonymous memory is page aligned.
            with mmap.mmap(-1, MAX_READ_BYTES) as buffer:
                while not self._stopping.wait(self._pause_s):
                    self._read(fd, buffer)
        finally:
            os.close(fd)

    def _read(self, fd: int, buffer: mmap.mmap) -> None:
        blocks = len(self._expected) // ALIGNMENT_BYTES
        offset_bytes = self._random.randrange(blocks) * ALIGNMENT_BYTES
        length_bytes = self._random.randint(1, MAX_READ_BYTES // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        expected = self._expected[offset_bytes : offset_bytes + length_bytes]
        begun_ns = time.monotonic_ns()
        with memoryview(buffer) as view, view[:length_bytes] as window:
            try:
                count = os.preadv(fd, [window], offset_bytes)
            except OSError as error:
                self.errors.append(f"read {self._path} at byte {offset_bytes}: {error}")
                if len(self.errors) >= ERRORS_UNTIL_GIVING_UP:
                    self._stopping.set()
                return
            self.operations.append(Operation(begun_ns, time.monotonic_ns()))
            if count != len(expected) or window[:count] != expected:
                place = f"{self._path} at byte {offset_bytes}, {length_bytes} bytes"
                self.wrong.append(f"{place}: not what the image holds")
