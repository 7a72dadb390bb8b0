"""The tables of a campaign: what each kind of fault did, and what the workloads verified (pure)."""

from __future__ import annotations

from dataclasses import dataclass

from chaos.campaign.outcome import CampaignOutcome
from chaos.report.series import kinds_by_count
from chaos.rig.latency import Summary, summarize

__all__ = ["FaultRow", "LoadRow", "Tile", "fault_rows", "load_rows", "tiles"]


@dataclass(frozen=True, slots=True)
class FaultRow:
    """All faults of one kind."""

    kind: str
    inflicted: int
    landed: int
    hit_in_flight: int
    recovered: int
    already_done: int
    workers_killed: int
    supervisors_killed: int
    stall: Summary
    wrong: int
    example: str  # evidence of one that landed


@dataclass(frozen=True, slots=True)
class LoadRow:
    """One workload; latencies in milliseconds."""

    name: str
    device: str
    operations: int
    mean_ms: float
    worst_ms: float


@dataclass(frozen=True, slots=True)
class Tile:
    """A figure and what it counts; ``is_bad``: it should be zero and is not."""

    label: str
    figure: str
    is_bad: bool = False


def fault_rows(outcome: CampaignOutcome) -> list[FaultRow]:
    """A row for each kind, most frequent first."""
    rows = []
    for kind in kinds_by_count(outcome.faults):
        faults = [fault for fault in outcome.faults if fault.kind == kind]
        landed = [fault for fault in faults if fault.has_landed]
        rows.append(
            FaultRow(
                kind=kind,
                inflicted=len(faults),
                landed=len(landed),
                hit_in_flight=sum(f.recovered + f.already_done > 0 for f in faults),
                recovered=sum(f.recovered for f in faults),
                already_done=sum(f.already_done for f in faults),
                workers_killed=sum(f.workers_killed for f in faults),
                supervisors_killed=sum(f.supervisors_killed for f in faults),
                stall=summarize([f.stall_ns for f in faults]),
                wrong=sum(bool(f.wrong) for f in faults),
                example=landed[0].evidence if landed else "",
            )
        )
    return rows


def load_rows(outcome: CampaignOutcome) -> list[LoadRow]:
    """A row for each workload."""
    rows = []
    for load in outcome.workloads:
        counted = sum(one.operation_cnt for one in load.slices)
        total_ns = sum(one.total_ns for one in load.slices)
        worst_ns = max((s.worst.ended_ns - s.worst.begun_ns for s in load.slices), default=0)
        mean_ms = total_ns / counted / 1e6 if counted else 0.0
        rows.append(LoadRow(load.name, load.device, load.operations, mean_ms, worst_ns / 1e6))
    return rows


def tiles(outcome: CampaignOutcome) -> list[Tile]:
    """The figures at the top: what was done to it, then what must be zero."""
    found = outcome.findings
    zeros = {
        "I/O errors": len(found.io_errors),
        "lost": len(found.lost),
        "stale": len(found.stale),
        "misplaced": len(found.misplaced),
        "corrupt": len(found.corrupt),
        "container restarts": found.container_restarts,
        "kernel complaints": len(outcome.kernel_complaints),
    }
    overlapping = [Tile("of them overlapping", f"{outcome.overlapped():,}")]
    if not outcome.is_overlapping:
        overlapping = []
    return [
        Tile("faults", f"{len(outcome.faults):,}"),
        *overlapping,
        Tile("workers killed", f"{outcome.worker_kills():,}"),
        Tile("in-flight commands recovered", f"{outcome.in_flight_recovered():,}"),
        Tile("device commands", f"{outcome.commands:,}"),
        *(Tile(label, f"{count:,}", count > 0) for label, count in zeros.items()),
    ]
