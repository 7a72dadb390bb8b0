"""Reads the writable layer in append mode: a data file and an index file of one uuid.

| file  | byte 0                                               | from byte 4096                 |
|-------|------------------------------------------------------|--------------------------------|
| data  | header, flags header + data                          | payload as it was appended     |
| index | header, flags header; index_offset 4096, no size     | 16-byte records in write order |

A later record overrides an earlier one. The record count follows from the file's size.

The torn tail: a power cut may leave part of a record at the end of the index file, and whole
records whose data the data file does not hold (or zeros, from a file system that extended the
file first). They are left out when no good one follows. A bad record with a good one behind it is
damage, and refused; but zeros up to the end of a sector, with good records behind them, were
appended after the last sync and did not reach the disk, where later ones did: they are read over.

Records whose data is not synced yet follow in a file beside the index file, see ``pending``.
Sparse writable layers: ``sparse_upper``. Source: overlaybd-formats 1.6.
"""

from __future__ import annotations

from obdsup.errors import FormatError
from obdsup.format import lsmt_header, lsmt_index
from obdsup.format.blob import Blob, FileBlob
from obdsup.format.lsmt_header import AREA_BYTES, LsmtFlags, LsmtHeader
from obdsup.format.lsmt_index import Segment
from obdsup.format.pending import pending_records
from obdsup.format.segment_map import SegmentMap
from obdsup.format.sparse_upper import SparseUpper, is_sparse
from obdsup.format.units import SECTOR_BYTES, Sectors

__all__ = ["Upper", "open_upper"]

_MAX_RECORDS = 128_000_000
_BATCH_BYTES = 1 << 20
_HOLE = Segment(Sectors(0), Sectors(0), Sectors(0))


class Upper:
    """A writable layer as it was when opened; owns both blobs.

    Attributes:
        record_cnt: records that count, pending ones included.
        index_end_bytes: behind the last record of the index file that counts.
        torn_bytes: what lies behind that.
        pending: the records that follow those of the index file, raw.
    """

    def __init__(self, data: Blob, index: Blob, *, is_file: bool = False) -> None:
        """Reads headers and records; takes both blobs over.

        Args:
            is_file: ``index.path`` is a real path, and pending records may lie beside it.

        Raises:
            FormatError: a wrong header, different uuids, a bad record before a good one.
        """
        self.path = data.path
        self._data = data
        self.header = _read_data_header(data)
        index_header = _read_index_header(index)
        if index_header.uuid != self.header.uuid:
            raise FormatError(
                index.path,
                56,
                f"{self.header.uuid} as in {data.path}",
                index_header.uuid,
                field="uuid",
            )
        if index_header.virtual_size_bytes != self.header.virtual_size_bytes:
            raise FormatError(
                index.path,
                48,
                f"{self.header.virtual_size_bytes} as in {data.path}",
                index_header.virtual_size_bytes,
                field="virtual_size",
            )
        self.map = SegmentMap()
        self.record_cnt = 0
        self.index_end_bytes = AREA_BYTES
        self._read_records(index)
        self.torn_bytes = index.size - self.index_end_bytes
        self.pending = self._read_pending(index) if is_file else b""
        index.close()

    def _read_records(self, index: Blob) -> None:
        whole = (index.size - AREA_BYTES) // lsmt_index.ENTRY_BYTES
        if whole > _MAX_RECORDS:
            raise FormatError(index.path, index.size, f"at most {_MAX_RECORDS} records", whole)
        file_end = self._data.size // SECTOR_BYTES
        end = AREA_BYTES + whole * lsmt_index.ENTRY_BYTES
        bad: FormatError | None = None
        is_hole = False
        for base in range(AREA_BYTES, end, _BATCH_BYTES):
            raw = index.read_at(base, min(_BATCH_BYTES, end - base))
            for position, segment in lsmt_index.decode(raw):
                at = base + position * lsmt_index.ENTRY_BYTES
                problem = lsmt_index.problem_of(segment, file_end)
                if problem is not None:
                    is_hole = (bad is None or is_hole) and segment == _HOLE
                    bad = bad or FormatError(index.path, at, *problem, field="index record")
                else:
                    if bad is not None and not (is_hole and at % SECTOR_BYTES == 0):
                        raise bad
                    bad = None
                    self.map.insert(segment)
                    self.record_cnt += 1
                if bad is None:
                    self.index_end_bytes = at + lsmt_index.ENTRY_BYTES
        if bad is None:
            self.index_end_bytes = end  # INVALID records may stand at the end

    def _read_pending(self, index: Blob) -> bytes:
        """Applies what waits for a sync; a record that does not fit ends it."""
        if self.torn_bytes >= lsmt_index.ENTRY_BYTES:
            return b""  # a power cut took records: nothing can wait behind them
        last_at = max(AREA_BYTES, self.index_end_bytes - lsmt_index.ENTRY_BYTES)
        last = index.read_at(last_at, self.index_end_bytes - last_at)
        raw = pending_records(index.path, self.header.uuid, self.index_end_bytes, last)
        file_end = self._data.size // SECTOR_BYTES
        for position, segment in lsmt_index.decode(raw):
            if lsmt_index.problem_of(segment, file_end) is not None:
                return raw[: position * lsmt_index.ENTRY_BYTES]
            self.map.insert(segment)
            self.record_cnt += 1
        return raw

    def read_payload(self, moffset: int, length: int) -> bytes:
        """``length`` sectors from sector ``moffset`` of the data file."""
        return self._data.read_at(moffset * SECTOR_BYTES, length * SECTOR_BYTES)

    def close(self) -> None:
        """Closes the data file."""
        self._data.close()


def _read_data_header(data: Blob) -> LsmtHeader:
    header = lsmt_header.decode(data.read_at(0, min(AREA_BYTES, data.size)), data.path, 0)
    lsmt_header.expect_flags(
        header,
        data.path,
        0,
        present=LsmtFlags.HEADER | LsmtFlags.DATA,
        absent=LsmtFlags.SEALED | LsmtFlags.SPARSE,
    )
    return header


def _read_index_header(index: Blob) -> LsmtHeader:
    header = lsmt_header.decode(index.read_at(0, min(AREA_BYTES, index.size)), index.path, 0)
    lsmt_header.expect_flags(
        header, index.path, 0, present=LsmtFlags.HEADER, absent=LsmtFlags.DATA | LsmtFlags.SEALED
    )
    if header.index_offset_bytes != AREA_BYTES:
        raise FormatError(
            index.path, 32, AREA_BYTES, header.index_offset_bytes, field="index_offset"
        )
    return header


def open_upper(data_path: str, index_path: str) -> Upper | SparseUpper:
    """Opens a pair of files, of the mode that the data file's header says.

    Raises:
        ConfigError: a file is missing or not a file.
        FormatError: see ``Upper`` and ``SparseUpper``.
    """
    data = FileBlob(data_path)
    try:
        index = FileBlob(index_path)
        try:
            head = data.read_at(0, min(AREA_BYTES, data.size))
            if is_sparse(lsmt_header.decode(head, data.path, 0)):
                return SparseUpper(data, index)
            return Upper(data, index, is_file=True)
        except BaseException:
            index.close()
            raise
    except BaseException:
        data.close()
        raise
