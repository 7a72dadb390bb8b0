"""Writes the writable layer in append mode: the plain form of what the engine does.

A write appends its data; its records go to the index file with ``sync`` or ``close``, behind a sync
of the data: on the disk the index file never names data that is not there. What the engine left
pending too. Opening for writing cuts what ``upper.Upper`` left out of the tail and aligns
the data file's end, so that later records neither follow garbage nor name unaligned data.
Source: overlaybd-formats 1.6.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import uuid as uuids
from collections.abc import Iterable

from obdsup.errors import AlreadyServed, ConfigError
from obdsup.format import lsmt_header, lsmt_index, zeroes
from obdsup.format.lsmt_header import AREA_BYTES, NULL_UUID, LsmtFlags, LsmtHeader
from obdsup.format.lsmt_index import MAX_SEGMENT_SECTORS, Segment
from obdsup.format.sink import atomic_output
from obdsup.format.sparse_upper import SparseUpper
from obdsup.format.units import SECTOR_BYTES, Sectors, to_sectors
from obdsup.format.upper import Upper, open_upper

__all__ = ["UpperWriter", "create_upper"]


def create_upper(
    data_path: str,
    index_path: str,
    virtual_size_bytes: int,
    *,
    uuid: str = "",
    parent_uuid: str = NULL_UUID,
    is_sparse: bool = False,
    may_replace: bool = False,
) -> str:
    """Creates an empty pair with one uuid, which it returns; random unless given.

    Each file appears whole; a crash between the two leaves one, which never opens as an image.

    Args:
        is_sparse: sectors have their places in the data file; needs a file system with holes.

    Raises:
        ConfigError: a file exists, the two are one, the size is not whole sectors, no holes.
        ObdError: the storage failed.
    """
    to_sectors(virtual_size_bytes, "virtual size")
    if not 0 < virtual_size_bytes <= lsmt_header.MAX_VIRTUAL_BYTES:
        raise ConfigError(f"virtual size: {virtual_size_bytes} bytes is out of range")
    if os.path.realpath(data_path) == os.path.realpath(index_path):
        raise ConfigError(f"{data_path}: expected two files, data and index, found the same twice")
    uuid = lsmt_header.parse_uuid(uuid) if uuid else str(uuids.uuid4()).upper()
    kind = LsmtFlags.HEADER | LsmtFlags.DATA | (LsmtFlags.SPARSE if is_sparse else LsmtFlags(0))
    data = LsmtHeader(kind, virtual_size_bytes, uuid=uuid, parent_uuid=parent_uuid)
    index = LsmtHeader(
        LsmtFlags.HEADER, virtual_size_bytes, AREA_BYTES, uuid=uuid, parent_uuid=parent_uuid
    )
    with (
        atomic_output(data_path, may_replace=may_replace) as data_file,
        atomic_output(index_path, may_replace=may_replace) as index_file,
    ):
        data_file.write(lsmt_header.encode(data))
        if is_sparse:
            _extend(data_file.fileno(), AREA_BYTES + virtual_size_bytes, data_path)
        else:
            index_file.write(lsmt_header.encode(index))
    if may_replace:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(data_path + zeroes.SUFFIX)  # of the layer that was here: void
    return uuid


def _extend(descriptor: int, size: int, path: str) -> None:
    """One hole up to ``size``; where a file system has none, all of it would pass for data."""
    try:
        os.ftruncate(descriptor, size)
        os.lseek(descriptor, AREA_BYTES, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:  # no data behind the header
            return
        raise ConfigError(
            f"{path}: can not be extended to {size} bytes: {error.strerror}"
        ) from error
    raise ConfigError(
        f"{path}: expected a file system with holes for a sparse layer, found none",
        hint="leave --sparse out, or use ext4, xfs, btrfs or tmpfs",
    )


class UpperWriter:
    """The one writer of a pair: an exclusive lock on the index file, gone with the process."""

    def __init__(self, data_path: str, index_path: str, *, tag: int = 0) -> None:
        """Opens an existing pair; ``tag`` is the number of layers below it.

        Raises:
            AlreadyServed: another process writes to it.
            ConfigError, FormatError: as of ``open_upper``.
        """
        self._tag = tag
        upper = open_upper(data_path, index_path)
        if isinstance(upper, SparseUpper):
            upper.close()
            raise ConfigError(f"{data_path}: is a sparse layer, which SparseWriter writes")
        self.upper: Upper = upper
        self._data_fd = os.open(data_path, os.O_RDWR | os.O_CLOEXEC)
        self._index_fd = os.open(index_path, os.O_RDWR | os.O_CLOEXEC)
        self._unsynced = bytearray()
        try:
            fcntl.flock(self._index_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.close()
            raise AlreadyServed(f"{index_path}: another process writes to it") from error
        self._index_end = self.upper.index_end_bytes
        os.ftruncate(self._index_fd, self._index_end)
        self._unsynced = bytearray(self.upper.pending)
        self._data_end = -(-os.lseek(self._data_fd, 0, os.SEEK_END) // SECTOR_BYTES) * SECTOR_BYTES

    def write(self, offset: int, data: bytes) -> None:
        """Writes whole sectors at sector ``offset``."""
        assert data
        assert len(data) % SECTOR_BYTES == 0
        moffset = self._data_end // SECTOR_BYTES
        _write_all(self._data_fd, data, self._data_end)
        self._data_end += len(data)
        length = len(data) // SECTOR_BYTES
        self._append(
            Segment(
                Sectors(offset + begin),
                Sectors(min(MAX_SEGMENT_SECTORS, length - begin)),
                Sectors(moffset + begin),
                False,
                self._tag,
            )
            for begin in range(0, length, MAX_SEGMENT_SECTORS)
        )

    def discard(self, offset: int, length: int) -> None:
        """Makes sectors read as zeros."""
        self._append(
            Segment(
                Sectors(offset + begin),
                Sectors(min(MAX_SEGMENT_SECTORS, length - begin)),
                Sectors(self._data_end // SECTOR_BYTES),
                True,
                self._tag,
            )
            for begin in range(0, length, MAX_SEGMENT_SECTORS)
        )

    def _append(self, segments: Iterable[Segment]) -> None:
        records = list(segments)
        self._unsynced += lsmt_index.encode(records)
        for record in records:
            self.upper.map.insert(record)

    def sync(self) -> None:
        """All writes so far are durable: data before the records that name it."""
        os.fdatasync(self._data_fd)
        _write_all(self._index_fd, bytes(self._unsynced), self._index_end)
        self._index_end += len(self._unsynced)
        self._unsynced.clear()
        os.fdatasync(self._index_fd)

    def close(self) -> None:
        """Syncs what was written and gives the lock up."""
        if self._unsynced:
            self.sync()
        os.close(self._index_fd)
        os.close(self._data_fd)
        self.upper.close()


def _write_all(descriptor: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, at)
        view, at = view[written:], at + written
