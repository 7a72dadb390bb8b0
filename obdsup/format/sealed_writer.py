"""Writes what segments name as one sealed layer: the readable form of commit, compact and merge.

Payload in the order of the disk, then the index. Neighbours on the disk become one entry when they
have the same tag, are both zeroed or both not, and together are shorter than the longest segment.
``native/tools`` does the same by all processors. Source: overlaybd-formats 1.5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from obdsup.format import lsmt_header, lsmt_index
from obdsup.format.lsmt_header import LsmtFlags, LsmtHeader
from obdsup.format.lsmt_index import MAX_SEGMENT_SECTORS, PAYLOAD_SECTOR, Segment
from obdsup.format.sink import Sink
from obdsup.format.units import SECTOR_BYTES, Sectors

__all__ = ["joined", "write_sealed"]

_PADDED_ENTRIES = 256


def joined(segments: Iterable[Segment]) -> list[Segment]:
    """The index of a layer that holds ``segments``, sorted and disjoint, one behind the other.

    Their tags stay; ``moffset`` becomes the place in the new file.
    """
    entries: list[Segment] = []
    moffset = PAYLOAD_SECTOR
    for segment in segments:
        last = entries[-1] if entries else None
        if (
            last is not None
            and last.end == segment.offset
            and (last.tag, last.is_zeroed) == (segment.tag, segment.is_zeroed)
            and last.length + segment.length < MAX_SEGMENT_SECTORS
        ):
            entries[-1] = last._replace(length=Sectors(last.length + segment.length))
        else:
            entries.append(segment._replace(moffset=Sectors(moffset)))
        moffset += 0 if segment.is_zeroed else segment.length
    return entries


def write_sealed(
    sink: Sink,
    segments: Iterable[Segment],
    read: Callable[[Segment], bytes],
    header: LsmtHeader,
    tag_of: Callable[[int], int] = lambda tag: 0,
) -> None:
    """Writes the layer: sizes, uuids and user tag as in ``header``.

    Args:
        segments: sorted and disjoint.
        read: the content of one of them.
        tag_of: the tag that the index gets for the tag of a segment.
    """
    taken = list(segments)
    entries = joined(segment._replace(tag=tag_of(segment.tag)) for segment in taken)
    sink.write(
        lsmt_header.encode(
            _with(header, LsmtFlags.HEADER | LsmtFlags.DATA | LsmtFlags.SEALED, 0, 0)
        )
    )
    payload = 0
    for segment in taken:
        if not segment.is_zeroed:
            sink.write(read(segment))
            payload += segment.length * SECTOR_BYTES
    index = lsmt_index.encode(entries, padded_to=_PADDED_ENTRIES)
    sink.write(index)
    sink.write(
        lsmt_header.encode(
            _with(
                header,
                LsmtFlags.DATA | LsmtFlags.SEALED,
                lsmt_header.AREA_BYTES + payload,
                len(index) // lsmt_index.ENTRY_BYTES,
            )
        )
    )


def _with(header: LsmtHeader, flags: LsmtFlags, index_at: int, entry_cnt: int) -> LsmtHeader:
    return LsmtHeader(
        flags,
        header.virtual_size_bytes,
        index_at,
        entry_cnt,
        uuid=header.uuid,
        parent_uuid=header.parent_uuid,
        user_tag=header.user_tag,
    )
