"""How long the applications waited: operations with their times, stalls per kill, percentiles.

All times are CLOCK_MONOTONIC in nanoseconds, the clock of the journal's counters too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

__all__ = [
    "SLICE_NS",
    "LatencySlice",
    "Operation",
    "Summary",
    "into_slices",
    "percentile",
    "stall_ns",
    "summarize",
]


class Operation(NamedTuple):
    """One operation of a client, from before it was sent to after its answer."""

    begun_ns: int
    ended_ns: int


@dataclass(frozen=True, slots=True)
class Summary:
    """A distribution in milliseconds; all zero when nothing was measured."""

    count: int
    p50: float
    p99: float
    max: float

    def to_json(self) -> dict[str, float]:
        return {"count": self.count, "p50": self.p50, "p99": self.p99, "max": self.max}


def stall_ns(operations: Iterable[Operation], begin_ns: int, end_ns: int) -> int:
    """The longest operation that overlaps [begin_ns, end_ns]; 0 when none does.

    The whole operation counts, also the part outside the window: it is what an application waited.
    """
    return max(
        (
            o.ended_ns - o.begun_ns
            for o in operations
            if o.begun_ns <= end_ns and o.ended_ns >= begin_ns
        ),
        default=0,
    )


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile: always a value that was measured. 0 for no values."""
    if not values:
        return 0.0
    rank = max(1, math.ceil(len(values) * percent / 100))
    return sorted(values)[rank - 1]


def summarize(values_ns: Sequence[int]) -> Summary:
    """p50, p99 and maximum of durations given in nanoseconds."""
    values_ms = [round(value / 1e6, 2) for value in values_ns]
    return Summary(
        count=len(values_ms),
        p50=percentile(values_ms, 50),
        p99=percentile(values_ms, 99),
        max=max(values_ms, default=0.0),
    )


class LatencySlice(NamedTuple):
    """The operations that ended in one short span of time, as far as figures need them.

    ``worst`` is the longest of them with its own times: it may have begun long before the slice.
    """

    begin_ns: int
    operation_cnt: int
    total_ns: int
    worst: Operation


SLICE_NS = 20_000_000


def into_slices(operations: Iterable[Operation], slice_ns: int = SLICE_NS) -> list[LatencySlice]:
    """Gathers operations by the time they ended; slices without any are left out."""
    found: dict[int, LatencySlice] = {}
    for operation in operations:
        begin_ns = operation.ended_ns - operation.ended_ns % slice_ns
        length_ns = operation.ended_ns - operation.begun_ns
        old = found.get(begin_ns)
        if old is None:
            found[begin_ns] = LatencySlice(begin_ns, 1, length_ns, operation)
            continue
        worst = max(old.worst, operation, key=lambda o: o.ended_ns - o.begun_ns)
        found[begin_ns] = LatencySlice(
            begin_ns, old.operation_cnt + 1, old.total_ns + length_ns, worst
        )
    return [found[begin_ns] for begin_ns in sorted(found)]
