"""Reads a sealed layer: [4096 header][payload][index][4096 trailer].

Only the trailer speaks for the index; the header's sealed bit and index fields are not looked at (a
layer sealed in place leaves them unset). Source: overlaybd-formats 1.5, 1.8.
"""

from __future__ import annotations

from obdsup.errors import FormatError
from obdsup.format import lsmt_header, lsmt_index
from obdsup.format.blob import Blob
from obdsup.format.lsmt_header import AREA_BYTES, LsmtFlags
from obdsup.format.lsmt_index import Segment
from obdsup.format.units import SECTOR_BYTES

__all__ = ["SealedLayer"]

_MAX_ENTRIES = 1_000_000


class SealedLayer:
    """A read-only layer: its sorted segments and its payload. Owns the blob."""

    def __init__(self, blob: Blob) -> None:
        """Reads and validates header, trailer and index; takes ``blob`` over.

        Raises:
            FormatError: any of them is wrong, or does not fit the file.
        """
        self.path = blob.path
        self._blob = blob
        if blob.size < 2 * AREA_BYTES:
            raise FormatError(
                blob.path, 0, f"an LSMT layer of at least {2 * AREA_BYTES} bytes", blob.size
            )
        header = lsmt_header.decode(blob.read_at(0, AREA_BYTES), blob.path, 0)
        flags = LsmtFlags
        lsmt_header.expect_flags(
            header, blob.path, 0, present=flags.HEADER | flags.DATA, absent=LsmtFlags(0)
        )
        at = blob.size - AREA_BYTES
        self.header = lsmt_header.decode(blob.read_at(at, AREA_BYTES), blob.path, at)
        lsmt_header.expect_flags(
            self.header, blob.path, at, present=flags.DATA | flags.SEALED, absent=flags.HEADER
        )
        self.segments: list[Segment] = self._read_index(at)

    def _read_index(self, trailer_at: int) -> list[Segment]:
        begin, count = self.header.index_offset_bytes, self.header.index_entry_cnt
        if count > _MAX_ENTRIES:
            raise FormatError(
                self.path, trailer_at + 40, f"at most {_MAX_ENTRIES}", count, field="index_size"
            )
        end = begin + count * lsmt_index.ENTRY_BYTES
        # Writers put the trailer right behind the index, at the next sector at most: a gap means
        # that one of the two fields is wrong.
        if (
            begin < AREA_BYTES
            or begin % SECTOR_BYTES
            or not trailer_at - AREA_BYTES < end <= trailer_at
        ):
            raise FormatError(
                self.path,
                trailer_at + 32,
                f"an index of {count} entries that ends at the trailer at {trailer_at}",
                f"[{begin}, {end})",
                field="index_offset",
            )
        raw = self._blob.read_at(begin, end - begin)
        return self._decode(raw, begin)

    def _decode(self, raw: bytes, begin: int) -> list[Segment]:
        """The segments of an index that stands at byte ``begin``, where the payload ends."""
        return lsmt_index.decode_sorted(raw, self.path, begin, begin)

    def read_payload(self, moffset: int, length: int) -> bytes:
        """``length`` sectors from sector ``moffset`` of the file."""
        return self._blob.read_at(moffset * SECTOR_BYTES, length * SECTOR_BYTES)

    def close(self) -> None:
        """Closes the file."""
        self._blob.close()
