"""Layers on top of each other: one merged index, read through to the layer each segment is of.

The topmost layer that maps a sector decides, a zeroed mapping too; elsewhere the disk is zeros.
The virtual size is that of the topmost layer that has one. Source: overlaybd-formats 1.10.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from obdsup.errors import ConfigError
from obdsup.format.lsmt_index import Segment
from obdsup.format.segment_map import SegmentMap, fill_gaps
from obdsup.format.units import SECTOR_BYTES, Sectors, to_sectors

__all__ = ["Stack", "StackLayer"]

_READ_SECTORS = 8192  # a piece of 4 MiB


class StackLayer(Protocol):
    """What a stack needs of a layer."""

    def read_payload(self, moffset: int, length: int) -> bytes:
        """``length`` sectors from sector ``moffset`` of the layer's file."""


class Stack:
    """Merged layers, bottom to top; borrows them."""

    def __init__(
        self, layers: list[tuple[StackLayer, list[Segment], int]], size_bytes: int | None = None
    ) -> None:
        """Merges (layer, sorted segments, virtual size in bytes) entries.

        Args:
            layers: bottom to top.
            size_bytes: the virtual size, instead of that of the topmost layer that has one.
        """
        self._layers = [layer for layer, _, _ in layers]
        sizes = [size for _, _, size in layers if size]
        self.size_bytes = size_bytes if size_bytes is not None else (sizes[-1] if sizes else 0)
        tagged = [
            [segment._replace(tag=position) for segment in segments]
            for position, (_, segments, _) in enumerate(layers)
        ]
        self.map = SegmentMap(_merge(tagged))

    def segments(self, begin: int = 0, end: int | None = None) -> Iterator[Segment]:
        """Mapped parts of sectors [begin, end), cut at the virtual size; ``tag`` is the layer."""
        limit = self.size_bytes // SECTOR_BYTES
        yield from self.map.lookup(begin, limit if end is None else min(end, limit))

    def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        """What the disk holds there; whole sectors inside the virtual size.

        Raises:
            ConfigError: not whole sectors, or beyond the end.
            FormatError: a block or file under it is damaged.
        """
        begin = to_sectors(offset_bytes, "read offset")
        end = begin + to_sectors(length_bytes, "read length")
        if end * SECTOR_BYTES > self.size_bytes:
            raise ConfigError(
                f"read: expected a range inside {self.size_bytes} bytes,"
                f" found [{offset_bytes}, {offset_bytes + length_bytes})"
            )
        pieces: list[bytes] = []
        reached = int(begin)
        for segment in self.segments(begin, end):
            pieces.append(bytes((segment.offset - reached) * SECTOR_BYTES))
            pieces.append(self.read_segment(segment))
            reached = segment.end
        pieces.append(bytes((end - reached) * SECTOR_BYTES))
        return b"".join(pieces)

    def read_segment(self, segment: Segment) -> bytes:
        """The content of a segment got from ``segments``."""
        if segment.is_zeroed:
            return bytes(segment.length * SECTOR_BYTES)
        return self._layers[segment.tag].read_payload(segment.moffset, segment.length)

    def chunks(self) -> Iterator[tuple[int, bytes]]:
        """(byte offset, content) of all that is mapped and not zeroed, in order, up to 4 MiB each.

        Neighbouring segments of one run in a file are read together.
        """
        run: Segment | None = None
        for segment in self.segments():
            if segment.is_zeroed:
                continue
            if (
                run is not None
                and run.tag == segment.tag
                and run.end == segment.offset
                and run.file_end == segment.moffset
                and run.length + segment.length <= _READ_SECTORS
            ):
                run = run._replace(length=Sectors(run.length + segment.length))
                continue
            if run is not None:
                yield run.offset * SECTOR_BYTES, self.read_segment(run)
            run = segment
        if run is not None:
            yield run.offset * SECTOR_BYTES, self.read_segment(run)


def _merge(layers: list[list[Segment]]) -> list[Segment]:
    """Halves first, so that 255 layers cost log2(255) passes and not 255."""
    if len(layers) < 2:
        return layers[0] if layers else []
    middle = len(layers) // 2
    return fill_gaps(_merge(layers[middle:]), _merge(layers[:middle]))
