"""LSMT index entries: 16 bytes each, two little-endian u64.

| field   | word | bits  | meaning                                                             |
|---------|------|-------|---------------------------------------------------------------------|
| offset  | low  | 0-49  | sector in the virtual disk; 2^50 - 1 marks a padding (INVALID) entry |
| length  | low  | 50-63 | sectors, 1 to 16383                                                 |
| moffset | high | 0-54  | sector in the file, so at least 8                                   |
| zeroed  | high | 55    | reads as zeros and occupies nothing in the file                     |
| tag     | high | 56-63 | layer number when stacked; readers of normal layers ignore it       |

Source: overlaybd-formats 1.4 and 1.5.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from obdsup.errors import FormatError
from obdsup.format.units import SECTOR_BYTES, Sectors

__all__ = [
    "ENTRY_BYTES",
    "INVALID_ENTRY",
    "MAX_SEGMENT_SECTORS",
    "PAYLOAD_SECTOR",
    "Segment",
    "decode",
    "encode",
    "encode_segment",
]

ENTRY_BYTES = 16
MAX_SEGMENT_SECTORS = 16383
PAYLOAD_SECTOR = 8  # the header takes the first 8
INVALID_OFFSET = 2**50 - 1
INVALID_ENTRY = struct.pack("<QQ", INVALID_OFFSET, 0)

_ENTRY = struct.Struct("<QQ")
_MOFFSET_MASK = 2**55 - 1


class Segment(NamedTuple):
    """A mapping of virtual sectors [offset, offset + length) onto a file.

    In a layer's own index ``tag`` is what the file says; in a stack it is the layer's position,
    bottom = 0.
    """

    offset: Sectors
    length: Sectors
    moffset: Sectors
    is_zeroed: bool = False
    tag: int = 0

    @property
    def end(self) -> Sectors:
        """The first sector after it."""
        return Sectors(self.offset + self.length)

    @property
    def file_end(self) -> Sectors:
        """The first sector of the file after its data; a zeroed segment has none."""
        return self.moffset if self.is_zeroed else Sectors(self.moffset + self.length)

    def clipped(self, begin: int, end: int) -> Segment:
        """The part inside [begin, end), which must overlap it."""
        if begin <= self.offset and end >= self.offset + self.length:
            return self
        first = max(begin, self.offset)
        last = min(end, self.offset + self.length)
        moved = self.moffset if self.is_zeroed else self.moffset + first - self.offset
        return Segment(
            Sectors(first), Sectors(last - first), Sectors(moved), self.is_zeroed, self.tag
        )


def encode_segment(segment: Segment) -> bytes:
    """The 16 bytes of one segment; its fields must be in range (a bug otherwise)."""
    assert 0 < segment.length <= MAX_SEGMENT_SECTORS
    assert 0 <= segment.offset < INVALID_OFFSET
    assert 0 <= segment.moffset <= _MOFFSET_MASK
    high = segment.moffset | int(segment.is_zeroed) << 55 | segment.tag << 56
    return _ENTRY.pack(segment.offset | segment.length << 50, high)


def encode(segments: Iterable[Segment], *, padded_to: int = 1) -> bytes:
    """The index of ``segments``, filled up with INVALID entries to a multiple of ``padded_to``."""
    body = b"".join(map(encode_segment, segments))
    missing = -(len(body) // ENTRY_BYTES) % padded_to
    return body + INVALID_ENTRY * missing


def decode(raw: bytes) -> Iterator[tuple[int, Segment]]:
    """(position, segment) of each entry but the INVALID ones; trailing bytes are left out.

    Nothing is validated: callers use ``problem_of`` with what they know of the file.
    """
    whole = len(raw) - len(raw) % ENTRY_BYTES
    for position, (low, high) in enumerate(_ENTRY.iter_unpack(raw[:whole])):
        offset = low & INVALID_OFFSET
        if offset != INVALID_OFFSET:
            yield (
                position,
                Segment(
                    Sectors(offset),
                    Sectors(low >> 50),
                    Sectors(high & _MOFFSET_MASK),
                    bool(high >> 55 & 1),
                    high >> 56,
                ),
            )


def problem_of(
    segment: Segment, file_end: int, file_begin: int = PAYLOAD_SECTOR
) -> tuple[str, str] | None:
    """(expected, found) if the segment can not be of a payload in [file_begin, file_end)."""
    if not segment.length:
        return "a length of 1 to 16383 sectors", "0"
    if segment.end > INVALID_OFFSET:
        return f"an end of at most sector {INVALID_OFFSET}", str(segment.end)
    if segment.moffset < file_begin or segment.file_end > file_end:
        return (
            f"file sectors inside [{file_begin}, {file_end})",
            f"[{segment.moffset}, {segment.file_end})",
        )
    return None


def decode_sorted(raw: bytes, path: str, at: int, payload_end_bytes: int) -> list[Segment]:
    """The validated segments of a sealed layer's index, read from byte ``at`` of ``path``.

    Raises:
        FormatError: a segment out of the payload, unsorted or overlapping.
    """
    segments: list[Segment] = []
    file_end = payload_end_bytes // SECTOR_BYTES
    reached = 0
    for position, segment in decode(raw):
        problem = problem_of(segment, file_end)
        if problem is None and segment.offset < reached:
            problem = f"sorted, disjoint entries from sector {reached} on", str(segment.offset)
        if problem is not None:
            raise FormatError(
                path, at + position * ENTRY_BYTES, *problem, field=f"index entry {position}"
            )
        reached = segment.end
        segments.append(segment)
    return segments
