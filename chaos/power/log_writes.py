"""Reads what the kernel's dm-log-writes target wrote: every request to a disk, in order.

All fields little-endian. The log begins with a superblock in its first sector; entries follow, each
one log sector, and behind each its data in whole log sectors.

| superblock  | off | size | meaning                                   |
|-------------|-----|------|-------------------------------------------|
| magic       |   0 |    8 | 0x006a736677736872 (dm-log-writes.c)      |
| version     |   8 |    8 | 1                                         |
| nr_entries  |  16 |    8 | entries in the log                        |
| sectorsize  |  24 |    4 | bytes of a log sector, 512 or more        |

| entry       | off | size | meaning                                              |
|-------------|-----|------|------------------------------------------------------|
| sector      |   0 |    8 | where on the disk, in 512-byte sectors               |
| nr_sectors  |   8 |    8 | how much of it, in 512-byte sectors                  |
| flags       |  16 |    8 | 1 flush, 2 FUA, 4 discard, 8 mark, 16 metadata       |
| data_len    |  24 |    8 | of a mark: bytes of text behind these 32             |

A write stands before the flush that made it durable; a write with FUA stands where it was
acknowledged; a mark stands where it was set, behind all that was flushed before.
Source: Linux 6.1 drivers/md/dm-log-writes.c.
"""

from __future__ import annotations

import enum
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from chaos.rig.problem import RigError

__all__ = ["SECTOR_BYTES", "Entry", "Flag", "WriteLog"]

SECTOR_BYTES = 512
_MAGIC = 0x006A736677736872
_VERSION = 1
_SUPER = struct.Struct("<QQQI")
_ENTRY = struct.Struct("<QQQQ")
_MAX_SECTOR_BYTES = 65536
_MAX_ENTRIES = 10_000_000
_MAX_ENTRY_BYTES = 1 << 30


class Flag(enum.IntFlag):
    """What a request was."""

    FLUSH = 1
    FUA = 2
    DISCARD = 4
    MARK = 8
    METADATA = 16


@dataclass(frozen=True, slots=True)
class Entry:
    """One request. ``data_at`` is where its data begins in the log."""

    sector: int
    sector_cnt: int
    flags: Flag
    data_at: int
    mark: str

    @property
    def has_data(self) -> bool:
        return self.sector_cnt > 0 and not self.flags & (Flag.DISCARD | Flag.MARK)


class WriteLog:
    """An open log; every length in it is checked against the log's size before it is used.

    Raises:
        RigError: not a log, or one that does not hold what its superblock says.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._size = os.lseek(self._fd, 0, os.SEEK_END)
            magic, version, self._entry_cnt, self._sector_bytes = _SUPER.unpack(
                self._read(0, _SUPER.size)
            )
            if magic != _MAGIC or version != _VERSION:
                raise RigError(f"{path}: not a log of dm-log-writes (magic {magic:#x}, {version})")
            size = self._sector_bytes
            if not SECTOR_BYTES <= size <= _MAX_SECTOR_BYTES or size & size - 1:
                raise RigError(f"{path}: a log sector of {size} bytes")
            if self._entry_cnt > _MAX_ENTRIES:
                raise RigError(f"{path}: {self._entry_cnt} entries are more than can be")
        except BaseException:
            os.close(self._fd)
            raise
        self.end_bytes = self._sector_bytes  # behind the last entry that was read

    def close(self) -> None:
        os.close(self._fd)

    def entries(self) -> Iterator[Entry]:
        """All entries in order.

        Raises:
            RigError: an entry that does not lie within the log.
        """
        at = self._sector_bytes
        for number in range(self._entry_cnt):
            sector, cnt, flags, length = _ENTRY.unpack(self._read(at, _ENTRY.size))
            mark = ""
            if flags & Flag.MARK:
                if length > self._sector_bytes - _ENTRY.size:
                    raise RigError(f"{self._path}: mark of {length} bytes in entry {number}")
                text = self._read(at + _ENTRY.size, length)
                mark = text.rstrip(b"\0").decode(errors="replace")
            entry = Entry(sector, cnt, Flag(flags & 31), at + self._sector_bytes, mark)
            at += self._sector_bytes
            if entry.has_data:
                stored = -(-cnt * SECTOR_BYTES // self._sector_bytes) * self._sector_bytes
                if cnt * SECTOR_BYTES > _MAX_ENTRY_BYTES or at + stored > self._size:
                    raise RigError(
                        f"{self._path}: entry {number} at {at} has {cnt} sectors, the log ends"
                        f" at {self._size}"
                    )
                at += stored
            self.end_bytes = at
            yield entry

    def data(self, entry: Entry) -> bytes:
        """What a write wrote."""
        return self._read(entry.data_at, entry.sector_cnt * SECTOR_BYTES)

    def _read(self, at: int, length: int) -> bytes:
        found = os.pread(self._fd, length, at)
        if len(found) != length:
            raise RigError(f"{self._path}: ends at {at + len(found)}, within what it announces")
        return found
