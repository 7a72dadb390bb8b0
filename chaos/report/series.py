"""Latency and faults of a campaign, reduced to what a picture of some pixels can show (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chaos.campaign.outcome import CampaignOutcome, FaultOutcome
from chaos.rig.latency import LatencySlice

__all__ = ["Envelope", "envelope", "kinds_by_count", "span_ns"]

NS_PER_MS = 1e6


@dataclass(frozen=True, slots=True)
class Envelope:
    """Per column of the picture: its middle in seconds, mean and worst latency in milliseconds."""

    at_s: list[float]
    mean_ms: list[float]
    worst_ms: list[float]


def span_ns(outcome: CampaignOutcome) -> tuple[int, int]:
    """[first, last] moment anything is known of; the campaign's own times when they are set."""
    moments = [moment for moment in (outcome.begun_ns, outcome.ended_ns) if moment]
    for load in outcome.workloads:
        if load.slices:
            moments += [load.slices[0].begin_ns, load.slices[-1].worst.ended_ns]
    for fault in outcome.faults:
        moments += [fault.begun_ns, fault.served_ns]
    return (min(moments), max(moments)) if moments else (0, 1)


def envelope(slices: Sequence[LatencySlice], begin_ns: int, end_ns: int, columns: int) -> Envelope:
    """Gathers slices into at most ``columns`` columns; columns in which nothing ended are absent.

    An operation counts in the column it ended in, as in its slice; nothing is smoothed away: the
    worst of a column is the worst operation there was.
    """
    width_ns = max(1, -(-(end_ns - begin_ns) // columns))
    count: dict[int, int] = {}
    total: dict[int, int] = {}
    worst: dict[int, int] = {}
    for one in slices:
        column = min(max(0, (one.begin_ns - begin_ns) // width_ns), columns - 1)
        count[column] = count.get(column, 0) + one.operation_cnt
        total[column] = total.get(column, 0) + one.total_ns
        length_ns = one.worst.ended_ns - one.worst.begun_ns
        worst[column] = max(worst.get(column, 0), length_ns)
    order = sorted(count)
    return Envelope(
        [(column + 0.5) * width_ns / 1e9 for column in order],
        [total[column] / max(1, count[column]) / NS_PER_MS for column in order],
        [worst[column] / NS_PER_MS for column in order],
    )


def kinds_by_count(faults: Sequence[FaultOutcome]) -> list[str]:
    """The kinds of fault, most frequent first: the order of lanes and rows."""
    kinds = {fault.kind for fault in faults}
    counts = {kind: sum(fault.kind == kind for fault in faults) for kind in kinds}
    return sorted(kinds, key=lambda kind: (-counts[kind], kind))
