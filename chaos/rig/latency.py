"""How long the applications waited: operations with their times, stalls per kill, percentiles.

All times are CLOCK_MONOTONIC in nanoseconds, the clock of the journal's counters too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Operation", "Summary", "percentile", "stall_ns", "summarize"]


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
