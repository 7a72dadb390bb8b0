"""Reads the writable layer in sparse mode: one data file in which each sector has its place.

| byte 0                                       | from byte 4096                              |
|----------------------------------------------|---------------------------------------------|
| header, flags header + data + sparse         | sector X at 4096 + X * 512, holes in between |

The index file is empty. Where the data file has a hole, the disk shows what is below, unless the
record beside it (``zeroes``) says that it was discarded. Source: overlaybd-formats 1.7.
"""

from __future__ import annotations

from obdsup.errors import ConfigError, FormatError, ObdError
from obdsup.format import lsmt_header, zeroes
from obdsup.format.blob import FileBlob
from obdsup.format.lsmt_header import AREA_BYTES, LsmtHeader
from obdsup.format.lsmt_index import MAX_SEGMENT_SECTORS, Segment
from obdsup.format.segment_map import SegmentMap
from obdsup.format.units import SECTOR_BYTES, Sectors

__all__ = ["SparseUpper", "is_sparse"]

_FIRST_SECTOR = AREA_BYTES // SECTOR_BYTES


def is_sparse(header: LsmtHeader) -> bool:
    """Whether a data file's header says that sectors have their places."""
    return bool(header.flags & lsmt_header.LsmtFlags.SPARSE)


def _pieces(begin: int, end: int, *, is_zeroed: bool) -> list[Segment]:
    return [
        Segment(
            Sectors(offset),
            Sectors(min(MAX_SEGMENT_SECTORS, end - offset)),
            Sectors(offset + _FIRST_SECTOR),
            is_zeroed,
        )
        for offset in range(begin, end, MAX_SEGMENT_SECTORS)
    ]


class SparseUpper:
    """A sparse writable layer as it was when opened; owns both files.

    Attributes:
        record_cnt, torn_bytes, index_end_bytes: as of an append-mode layer without records.
        zeroed_ranges: what was ever discarded, sector ranges [begin, end).
    """

    record_cnt = 0
    torn_bytes = 0
    index_end_bytes = 0
    pending = b""

    def __init__(self, data: FileBlob, index: FileBlob) -> None:
        """Reads header, holes and record; takes both files over.

        Raises:
            FormatError: a wrong header, an index file with records, a damaged record of zeroes.
        """
        self.path = data.path
        self._data = data
        self.header = lsmt_header.decode(data.read_at(0, min(AREA_BYTES, data.size)), data.path, 0)
        flags = lsmt_header.LsmtFlags
        lsmt_header.expect_flags(
            self.header, data.path, 0, present=flags.HEADER | flags.DATA, absent=flags.SEALED
        )
        if not self.header.virtual_size_bytes:
            raise FormatError(data.path, 48, "a virtual size", 0, field="virtual_size")
        if index.size > AREA_BYTES:
            raise FormatError(
                index.path, AREA_BYTES, "nothing beside a sparse data file", "index records"
            )
        # in this order: a hole is made behind its record, so what we take for a hole has one
        extents = data.data_extents()
        self.uuid_field = zeroes.uuid_field(data)
        self.zeroed_ranges = zeroes.decode(
            _read_beside(data.path + zeroes.SUFFIX), self.uuid_field, data.path + zeroes.SUFFIX
        )
        self.map = SegmentMap()
        self._fill(extents)
        index.close()

    def _fill(self, extents: list[tuple[int, int]]) -> None:
        disk_end = self.header.virtual_size_bytes // SECTOR_BYTES
        file_end = min(disk_end, (self._data.size - AREA_BYTES) // SECTOR_BYTES)
        for begin, end in self.zeroed_ranges:
            for piece in _pieces(begin, min(end, disk_end), is_zeroed=True):
                self.map.insert(piece)
        for from_byte, to_byte in extents:
            begin = max(0, from_byte - AREA_BYTES) // SECTOR_BYTES
            end = min(file_end, -(-(to_byte - AREA_BYTES) // SECTOR_BYTES))
            for piece in _pieces(begin, end, is_zeroed=False):
                self.map.insert(piece)

    def read_payload(self, moffset: int, length: int) -> bytes:
        """``length`` sectors from sector ``moffset`` of the data file."""
        return self._data.read_at(moffset * SECTOR_BYTES, length * SECTOR_BYTES)

    def close(self) -> None:
        """Closes the data file."""
        self._data.close()


def _read_beside(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""
    except IsADirectoryError as error:
        raise ConfigError(f"{path}: expected a file, found a directory", path=path) from error
    except OSError as error:
        raise ObdError(f"{path}: {error.strerror}") from error
