"""How long the applications on a device waited because of each fault."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from operator import attrgetter

from chaos.rig.latency import LatencySlice

__all__ = ["Stalls"]


class Stalls:
    """Answers for many windows over the same slices.

    Args:
        slices: of one or several workloads, in any order.
    """

    def __init__(self, slices: Sequence[LatencySlice]) -> None:
        self._slices = sorted(slices, key=_ended_ns)
        self._ends_ns = [_ended_ns(part) for part in self._slices]
        self._longest_ns = max((_length_ns(part) for part in self._slices), default=0)

    def longest_ns(self, begin_ns: int, end_ns: int) -> int:
        """The longest operation known that overlaps [begin_ns, end_ns]; 0 when none does.

        The whole operation counts, also the part outside: it is what an application waited.
        """
        longest_ns = 0
        for index in range(bisect_left(self._ends_ns, begin_ns), len(self._slices)):
            if self._ends_ns[index] > end_ns + self._longest_ns:
                break
            part = self._slices[index]
            if part.worst.begun_ns <= end_ns:
                longest_ns = max(longest_ns, _length_ns(part))
        return longest_ns


_ended_ns = attrgetter("worst.ended_ns")


def _length_ns(part: LatencySlice) -> int:
    return part.worst.ended_ns - part.worst.begun_ns
