"""Writes a sealed layer as a stream: header, payload, index padded to 4096 bytes, trailer.

Source: overlaybd-formats 1.5.
"""

from __future__ import annotations

from obdsup.errors import ConfigError
from obdsup.format import lsmt_header, lsmt_index
from obdsup.format.lsmt_header import AREA_BYTES, NULL_UUID, LsmtFlags, LsmtHeader
from obdsup.format.lsmt_index import MAX_SEGMENT_SECTORS, PAYLOAD_SECTOR, Segment
from obdsup.format.sink import Sink
from obdsup.format.units import SECTOR_BYTES, Sectors

__all__ = ["LayerWriter"]

_PADDED_ENTRIES = 256
_MAX_ENTRIES = 1_000_000


class LayerWriter:
    """Accepts extents in the order of the disk; complete after ``finish``. Borrows the sink."""

    def __init__(
        self,
        sink: Sink,
        virtual_size_bytes: int,
        *,
        uuid: str = NULL_UUID,
        parent_uuid: str = NULL_UUID,
        user_tag: str = "",
    ) -> None:
        """Writes the header."""
        self._sink = sink
        self._header = LsmtHeader(
            LsmtFlags.HEADER | LsmtFlags.DATA | LsmtFlags.SEALED,
            virtual_size_bytes,
            uuid=uuid,
            parent_uuid=parent_uuid,
            user_tag=user_tag,
        )
        self.segments: list[Segment] = []
        self._moffset = PAYLOAD_SECTOR
        sink.write(lsmt_header.encode(self._header))

    def add_data(self, offset: int, data: bytes) -> None:
        """Maps whole sectors of data at sector ``offset``, not before what was added so far."""
        assert len(data) % SECTOR_BYTES == 0
        self._sink.write(data)
        self._map(offset, len(data) // SECTOR_BYTES, is_zeroed=False)

    def add_zeros(self, offset: int, length: int) -> None:
        """Maps ``length`` sectors that read as zeros whatever is below."""
        self._map(offset, length, is_zeroed=True)

    def _map(self, offset: int, length: int, *, is_zeroed: bool) -> None:
        while length:
            step = self._extend(offset, length, is_zeroed=is_zeroed)
            if not step:
                step = min(length, MAX_SEGMENT_SECTORS)
                self._append(
                    Segment(Sectors(offset), Sectors(step), Sectors(self._moffset), is_zeroed)
                )
            self._moffset += 0 if is_zeroed else step
            offset += step
            length -= step

    def _append(self, segment: Segment) -> None:
        if len(self.segments) >= _MAX_ENTRIES:
            raise ConfigError(
                f"layer: expected at most {_MAX_ENTRIES} extents, found more",
                hint="split the disk over several layers with --base",
            )
        self.segments.append(segment)

    def _extend(self, offset: int, length: int, *, is_zeroed: bool) -> int:
        """Lets the last segment take a neighbour in; returns the sectors taken."""
        if not self.segments:
            return 0
        last = self.segments[-1]
        assert offset >= last.end
        step = min(length, MAX_SEGMENT_SECTORS - last.length)
        if last.end != offset or last.is_zeroed != is_zeroed or not step:
            return 0
        self.segments[-1] = last._replace(length=Sectors(last.length + step))
        return step

    def finish(self) -> None:
        """Writes index and trailer; nothing may follow."""
        index = lsmt_index.encode(self.segments, padded_to=_PADDED_ENTRIES)
        self._sink.write(index)
        trailer = LsmtHeader(
            LsmtFlags.DATA | LsmtFlags.SEALED,
            self._header.virtual_size_bytes,
            index_offset_bytes=self._moffset * SECTOR_BYTES,
            index_entry_cnt=len(index) // lsmt_index.ENTRY_BYTES,
            uuid=self._header.uuid,
            parent_uuid=self._header.parent_uuid,
            user_tag=self._header.user_tag,
        )
        area = lsmt_header.encode(trailer)
        assert len(area) == AREA_BYTES
        self._sink.write(area)
