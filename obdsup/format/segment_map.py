"""A map of disjoint segments in the order of the virtual disk: newest wins, gaps can be filled."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator

from obdsup.format.lsmt_index import Segment

__all__ = ["SegmentMap", "fill_gaps"]


class SegmentMap:
    """Disjoint segments, sorted by offset."""

    def __init__(self, segments: list[Segment] | None = None) -> None:
        """Takes over a list that is sorted and disjoint already."""
        self._segments: list[Segment] = segments if segments is not None else []
        self._offsets: list[int] = [segment.offset for segment in self._segments]

    def __len__(self) -> int:
        return len(self._segments)

    def __iter__(self) -> Iterator[Segment]:
        return iter(self._segments)

    def insert(self, new: Segment) -> None:
        """Maps ``new``; what it covers of older segments is forgotten."""
        first = bisect_right(self._offsets, new.offset) - 1
        if first < 0 or self._segments[first].end <= new.offset:
            first += 1
        last = bisect_left(self._offsets, new.end, first)
        pieces = [new]
        if first < last:
            left, right = self._segments[first], self._segments[last - 1]
            if left.offset < new.offset:
                pieces.insert(0, left.clipped(left.offset, new.offset))
            if right.end > new.end:
                pieces.append(right.clipped(new.end, right.end))
        self._segments[first:last] = pieces
        self._offsets[first:last] = [piece.offset for piece in pieces]

    def lookup(self, begin: int, end: int) -> Iterator[Segment]:
        """The mapped parts of sectors [begin, end), in order."""
        position = max(bisect_right(self._offsets, begin) - 1, 0)
        while position < len(self._segments):
            segment = self._segments[position]
            if segment.offset >= end:
                return
            if segment.end > begin:
                yield segment.clipped(begin, end)
            position += 1


def fill_gaps(upper: list[Segment], lower: list[Segment]) -> list[Segment]:
    """``upper`` with its gaps filled from ``lower``; both sorted and disjoint, as is the result.

    A zeroed segment is not a gap. Linear in the two lengths and the pieces cut.
    """
    merged: list[Segment] = []
    position = 0

    def take_below(begin: int, end: int) -> None:
        nonlocal position
        while position < len(lower) and lower[position].end <= begin:
            position += 1
        while position < len(lower) and lower[position].offset < end:
            merged.append(lower[position].clipped(begin, end))
            if lower[position].end > end:
                return
            position += 1

    reached = 0
    for segment in upper:
        if segment.offset > reached:
            take_below(reached, segment.offset)
        merged.append(segment)
        reached = segment.end
    if lower:
        take_below(reached, max(reached, lower[-1].end))
    return merged
