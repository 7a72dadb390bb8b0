"""Which disks a power cut can leave: chosen from a log of writes, and written to a file.

All before the last flush is on the disk. What was written since may be there or not, in any
combination; one of these writes may be torn at a sector or a page; what was written with FUA is
there from its place on.

Source: Linux, Documentation/block/writeback_cache_control.rst.
"""

from __future__ import annotations

import enum
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from chaos.power.log_writes import SECTOR_BYTES, Entry, Flag, WriteLog

__all__ = ["CrashPoint", "Kind", "Replay", "choose_points"]

_TEAR_BYTES = (512, 4096)
_ZEROS = bytes(1 << 20)


class Kind(enum.Enum):
    """How a crash state came to be."""

    FLUSH = "flush"  # right behind a flush: everything before is there
    ORDER = "order"  # between two flushes, writes in the order of their completion
    SUBSET = "subset"  # between two flushes, some of the unflushed writes
    TORN = "torn"  # the same, and one of them torn


@dataclass(frozen=True, slots=True)
class CrashPoint:
    """Power is cut behind the first ``entry_cnt`` entries of the log."""

    entry_cnt: int
    kind: Kind
    seed: str


def choose_points(entries: list[Entry], count: int, seed: int) -> list[CrashPoint]:
    """``count`` points between the marks "begin" and "end", in order of the log.

    Every flush if there are few enough; at most half of the points are flushes, the others lie
    between, in turn in order, with a subset and torn.
    """
    begin = next((i for i, e in enumerate(entries) if e.mark == "begin"), 0)
    end = next((i for i, e in enumerate(entries) if e.mark == "end"), len(entries))
    chance = random.Random(f"{seed}/points")
    flushes = [i + 1 for i in range(begin, end) if entries[i].flags & Flag.FLUSH]
    # only behind a write since the last flush can anything be missing
    between = [i + 1 for i in range(begin, end) if entries[i].has_data]
    chosen = flushes if len(flushes) <= count // 2 else chance.sample(flushes, count // 2)
    points = [CrashPoint(at, Kind.FLUSH, "") for at in chosen]
    kinds = (Kind.SUBSET, Kind.TORN, Kind.ORDER, Kind.SUBSET)
    for number in range(count - len(points)):
        at = chance.choice(between) if between else end
        points.append(CrashPoint(at, kinds[number % len(kinds)], f"{seed}/{number}/{at}"))
    return sorted(points, key=lambda point: point.entry_cnt)


class Replay:
    """A disk as of one place in the log, that only goes forward.

    Args:
        base: a file of the disk's size; everything up to the last flush is kept in it.
    """

    def __init__(self, log: WriteLog, entries: list[Entry], base: Path, size_bytes: int) -> None:
        self._log = log
        self._entries = entries
        self._fd = os.open(base, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._fd, size_bytes)
        self._base = base
        self._size_bytes = size_bytes
        self._applied = 0

    def close(self) -> None:
        os.close(self._fd)

    def make(self, point: CrashPoint, target: Path) -> list[str]:
        """Writes the disk of a point, not before the last one's, to a file; returns the marks.

        The file is sparse where the disk was never written.
        """
        flushed = self._last_flush(point.entry_cnt)
        while self._applied < flushed:
            self._apply(self._fd, self._entries[self._applied])
            self._applied += 1
        _copy_sparse(self._fd, target, self._size_bytes)
        fd = os.open(target, os.O_RDWR | os.O_CLOEXEC)
        try:
            for entry, keep_bytes in self._survivors(point, flushed):
                self._apply(fd, entry, keep_bytes)
        finally:
            os.close(fd)
        return [entry.mark for entry in self._entries[: point.entry_cnt] if entry.mark]

    def _last_flush(self, entry_cnt: int) -> int:
        """How many entries are surely on the disk: all before the last flush."""
        for at in range(entry_cnt, 0, -1):
            if self._entries[at - 1].flags & Flag.FLUSH:
                # its own data, if it has any, is written after the flush
                return at - 1 if self._entries[at - 1].has_data else at
        return 0

    def _survivors(self, point: CrashPoint, flushed: int) -> Iterator[tuple[Entry, int | None]]:
        """The unflushed writes that reached the disk; of a torn one, how many bytes."""
        chance = random.Random(point.seed)
        writes = [e for e in self._entries[flushed : point.entry_cnt] if not e.flags & Flag.MARK]
        if point.kind in (Kind.FLUSH, Kind.ORDER):
            yield from ((entry, None) for entry in writes)
            return
        likely = chance.choice((0.1, 0.5, 0.9))
        loose = [i for i, entry in enumerate(writes) if not entry.flags & Flag.FUA]
        torn = chance.choice(loose) if loose and point.kind is Kind.TORN else -1
        for number, entry in enumerate(writes):
            length = entry.sector_cnt * SECTOR_BYTES
            if number == torn and entry.has_data:
                yield entry, chance.randrange(length) // chance.choice(_TEAR_BYTES) * SECTOR_BYTES
            elif entry.flags & Flag.FUA or chance.random() < likely:
                yield entry, None

    def _apply(self, fd: int, entry: Entry, keep_bytes: int | None = None) -> None:
        at = entry.sector * SECTOR_BYTES
        if entry.has_data:
            data = self._log.data(entry)
            os.pwrite(fd, data if keep_bytes is None else data[:keep_bytes], at)
        elif entry.flags & Flag.DISCARD:
            left = min(entry.sector_cnt * SECTOR_BYTES, self._size_bytes - at)
            while left > 0:
                written = os.pwrite(fd, _ZEROS[: min(left, len(_ZEROS))], at)
                at, left = at + written, left - written


def _copy_sparse(source: int, target: Path, size_bytes: int) -> None:
    """Copies the parts of a file that are not holes."""
    fd = os.open(target, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(fd, size_bytes)
        at = 0
        while at < size_bytes:
            try:
                at = os.lseek(source, at, os.SEEK_DATA)
            except OSError:
                return  # nothing but a hole to the end
            end = os.lseek(source, at, os.SEEK_HOLE)
            while at < end:
                at += os.pwrite(fd, os.pread(source, min(end - at, 8 << 20), at), at)
    finally:
        os.close(fd)
