"""Writes the writable layer in sparse mode: the plain form of what the engine does.

Holes are blocks of 4096 bytes, so a write to a part of a hole brings the rest of the block from
below with it. A discard is recorded, synced, and only then made a hole; parts of blocks are
written as zeros. Source: overlaybd-formats 1.7 and native/DESIGN.md, "Sparse writable layers".
"""

from __future__ import annotations

import ctypes
import fcntl
import os
from collections.abc import Callable

from obdsup.errors import AlreadyServed, ObdError
from obdsup.format import zeroes
from obdsup.format.blob import FileBlob
from obdsup.format.lsmt_header import AREA_BYTES
from obdsup.format.lsmt_index import Segment
from obdsup.format.sparse_upper import SparseUpper
from obdsup.format.units import SECTOR_BYTES, Sectors

__all__ = ["SparseWriter"]

_BLOCK_SECTORS = 8
_PUNCH_HOLE_KEEP_SIZE = 0x02 | 0x01


class SparseWriter:
    """The one writer of a sparse layer: an exclusive lock on its index file."""

    def __init__(
        self,
        data_path: str,
        index_path: str,
        below: Callable[[int, int], bytes] | None = None,
    ) -> None:
        """Opens an existing layer; ``below(offset_bytes, length_bytes)`` reads what is under it.

        Raises:
            AlreadyServed: another process writes to it.
            ConfigError, FormatError: as of the reader.
        """
        self._below = below
        self._index_fd = os.open(index_path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(self._index_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._index_fd)
            raise AlreadyServed(f"{index_path}: another process writes to it") from error
        self.upper = SparseUpper(FileBlob(data_path), FileBlob(index_path))
        self._sectors = self.upper.header.virtual_size_bytes // SECTOR_BYTES
        self._fd = os.open(data_path, os.O_RDWR | os.O_CLOEXEC)
        if os.fstat(self._fd).st_size < AREA_BYTES + self._sectors * SECTOR_BYTES:
            os.ftruncate(self._fd, AREA_BYTES + self._sectors * SECTOR_BYTES)
        self._zeroes_path = data_path + zeroes.SUFFIX

    def write(self, offset: int, data: bytes) -> None:
        """Writes whole sectors at sector ``offset``."""
        end = offset + len(data) // SECTOR_BYTES
        first = offset // _BLOCK_SECTORS * _BLOCK_SECTORS
        last = min(self._sectors, -(-end // _BLOCK_SECTORS) * _BLOCK_SECTORS)
        whole = self._around(first, offset) + data + self._around(end, last)
        os.pwrite(self._fd, whole, AREA_BYTES + first * SECTOR_BYTES)
        self._note(first, last, is_zeroed=False)

    def _around(self, begin: int, end: int) -> bytes:
        """What sectors of one block hold now."""
        content = b""
        for sector in range(begin, end):
            found = list(self.upper.map.lookup(sector, sector + 1))
            at, length = sector * SECTOR_BYTES, SECTOR_BYTES
            if found and not found[0].is_zeroed:
                content += os.pread(self._fd, length, AREA_BYTES + at)
            elif found or self._below is None:
                content += bytes(length)
            else:
                content += self._below(at, length)
        return content

    def discard(self, offset: int, length: int) -> None:
        """Makes sectors read as zeros."""
        end = offset + length
        first = -(-offset // _BLOCK_SECTORS) * _BLOCK_SECTORS
        last = end if end == self._sectors else end // _BLOCK_SECTORS * _BLOCK_SECTORS
        if first >= last:
            self.write(offset, bytes(length * SECTOR_BYTES))
            return
        if offset < first:
            self.write(offset, bytes((first - offset) * SECTOR_BYTES))
        self._record(first, last)
        _punch_hole(self._fd, AREA_BYTES + first * SECTOR_BYTES, (last - first) * SECTOR_BYTES)
        self._note(first, last, is_zeroed=True)
        if last < end:
            self.write(last, bytes((end - last) * SECTOR_BYTES))

    def _record(self, begin: int, end: int) -> None:
        uuid = self.upper.uuid_field
        with open(self._zeroes_path, "a+b") as file:
            file.seek(0)
            held = len(zeroes.decode(file.read(), uuid, self._zeroes_path))
            kept = zeroes.HEADER_BYTES + held * 16 if held else 0
            file.truncate(kept)
            file.write(b"" if held else zeroes.encode_header(uuid))
            file.write(zeroes.encode_range(begin, end, uuid))
            file.flush()
            os.fsync(file.fileno())

    def _note(self, begin: int, end: int, *, is_zeroed: bool) -> None:
        for sector in range(begin, end, _BLOCK_SECTORS):
            length = min(_BLOCK_SECTORS, end - sector)
            moffset = Sectors(sector + AREA_BYTES // SECTOR_BYTES)
            self.upper.map.insert(Segment(Sectors(sector), Sectors(length), moffset, is_zeroed))

    def sync(self) -> None:
        """All writes so far are durable."""
        os.fdatasync(self._fd)

    def close(self) -> None:
        """Syncs and gives the lock up."""
        self.sync()
        os.close(self._index_fd)
        os.close(self._fd)
        self.upper.close()


def _punch_hole(descriptor: int, at: int, length: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    if libc.fallocate(descriptor, _PUNCH_HOLE_KEEP_SIZE, at, length) != 0:
        code = ctypes.get_errno()
        raise ObdError(f"a hole at byte {at} can not be punched: {os.strerror(code)}")
