"""What a campaign found out, as data: filled in while it runs, written as JSON, read by the report.

Field names of the JSON never change their meaning; fields are only added.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from chaos.rig.latency import LatencySlice, Operation, summarize
from chaos.workloads.base import Findings

__all__ = ["CampaignOutcome", "FaultOutcome", "WorkloadOutcome"]

SHOWN_LINES = 20  # of each kind of finding, in the JSON


@dataclass(frozen=True, slots=True)
class FaultOutcome:
    """One fault: when, what it hit, how long applications waited, what came of it."""

    kind: str
    device: str
    begun_ns: int
    served_ns: int
    stall_ns: int  # longest operation that overlaps [begun, served]
    has_landed: bool
    evidence: str
    recovered: int
    already_done: int
    wrong: tuple[str, ...]
    workers_killed: int
    supervisors_killed: int
    overlaps: str = ""  # the fault that struck while this one was being recovered from, or below it


@dataclass(frozen=True, slots=True)
class WorkloadOutcome:
    """One workload on one device."""

    name: str
    device: str
    operations: int
    slices: Sequence[LatencySlice]


@dataclass(slots=True)
class CampaignOutcome:
    """One campaign on one provider. ``failure``: why it could not be carried through, or ""."""

    name: str
    provider: str
    where: str  # "host" or "guest"
    seed: int
    command: str  # that replays it
    kernel: str = ""
    versions: dict[str, str] = field(default_factory=dict)  # of obdsup, fio, runc, …
    begun_ns: int = 0
    ended_ns: int = 0
    commands: int = 0  # completed on the devices, from their journals
    faults: list[FaultOutcome] = field(default_factory=list)
    workloads: list[WorkloadOutcome] = field(default_factory=list)
    findings: Findings = field(default_factory=Findings)
    kernel_complaints: list[str] = field(default_factory=list)
    kernel_false_alarms: list[str] = field(default_factory=list)  # refuted by what was read back
    kernel_log: str = "not read"  # "clean", "not readable here", "N complaints"
    planned_kinds: tuple[str, ...] = ()
    is_overlapping: bool = False  # faults were struck on top of each other
    failure: str = ""

    def kills(self) -> dict[str, int]:
        """Faults that were carried out, by kind."""
        return dict(Counter(fault.kind for fault in self.faults))

    def worker_kills(self) -> int:
        """Worker processes that died of all faults."""
        return sum(fault.workers_killed for fault in self.faults)

    def in_flight_recovered(self) -> int:
        """Commands found in flight by successors and executed again, or found done."""
        return sum(fault.recovered + fault.already_done for fault in self.faults)

    def overlapped(self) -> int:
        """Faults that landed on top of another one, or under one."""
        return sum(fault.has_landed and bool(fault.overlaps) for fault in self.faults)

    def problems(self) -> list[str]:
        """Why the campaign did not pass, one line each; empty when it did."""
        found = [self.failure] if self.failure else []
        counts = {
            "I/O errors": len(self.findings.io_errors),
            "lost": len(self.findings.lost),
            "stale": len(self.findings.stale),
            "misplaced": len(self.findings.misplaced),
            "corrupt": len(self.findings.corrupt),
            "container restarts": self.findings.container_restarts,
            "kernel complaints": len(self.kernel_complaints),
        }
        found += [f"{count} {name}, not 0" for name, count in counts.items() if count]
        found += [f"{fault.kind}: {line}" for fault in self.faults for line in fault.wrong]
        if not self.commands or any(not load.operations for load in self.workloads):
            found.append("nothing was served")
        for kind in self.planned_kinds:
            if not any(fault.kind == kind and fault.has_landed for fault in self.faults):
                found.append(f"no fault of kind {kind} landed")
        if self.is_overlapping and not self.overlapped():
            found.append("no fault landed on top of another one")
        return found

    def to_json(self) -> dict[str, Any]:
        """One element of ``campaigns[]`` in chaos.json. Times in it are milliseconds."""
        stalls = [fault.stall_ns for fault in self.faults]
        by_kind = {
            kind: summarize([f.stall_ns for f in self.faults if f.kind == kind]).to_json()
            for kind in sorted(self.kills())
        }
        return {
            "name": self.name,
            "provider": self.provider,
            "where": self.where,
            "seed": self.seed,
            "command": self.command,
            "kernel": self.kernel,
            "versions": self.versions,
            "seconds": round((self.ended_ns - self.begun_ns) / 1e9, 1),
            "commands": self.commands,
            "kills": self.kills(),
            "worker_kills": self.worker_kills(),
            "supervisor_kills": sum(fault.supervisors_killed for fault in self.faults),
            "landed": dict(Counter(fault.kind for fault in self.faults if fault.has_landed)),
            "overlapping": self.overlapped(),
            "in_flight_recovered": self.in_flight_recovered(),
            "io_errors": len(self.findings.io_errors),
            "lost": len(self.findings.lost),
            "stale": len(self.findings.stale),
            "misplaced": len(self.findings.misplaced),
            "corrupt": len(self.findings.corrupt),
            "container_restarts": self.findings.container_restarts,
            "kernel_complaints": len(self.kernel_complaints),
            "kernel_log": self.kernel_log,
            "stall_ms": {**summarize(stalls).to_json(), "by_kind": by_kind},
            "workloads": [
                {"name": load.name, "device": load.device, "operations": load.operations}
                for load in self.workloads
            ],
            "findings": {
                name: getattr(self.findings, name)[:SHOWN_LINES]
                for name in ("io_errors", "lost", "stale", "misplaced", "corrupt")
            },
            "kernel_complaint_lines": self.kernel_complaints[:SHOWN_LINES],
            "kernel_false_alarm_lines": self.kernel_false_alarms[:SHOWN_LINES],
            "problems": self.problems(),
        }

    def to_record(self) -> dict[str, Any]:
        """Everything, with every fault and latency slice: what ``from_record`` reads."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> CampaignOutcome:
        """The inverse of ``to_record`` after a way through JSON."""
        fields = dict(record)
        fields["findings"] = Findings(**record["findings"])
        fields["planned_kinds"] = tuple(record["planned_kinds"])
        fields["faults"] = [
            FaultOutcome(**{**fault, "wrong": tuple(fault["wrong"])}) for fault in record["faults"]
        ]
        fields["workloads"] = [
            WorkloadOutcome(**{**load, "slices": [_slice(row) for row in load["slices"]]})
            for load in record["workloads"]
        ]
        return cls(**fields)


def _slice(row: Sequence[Any]) -> LatencySlice:
    begin_ns, operation_cnt, total_ns, worst = row
    return LatencySlice(begin_ns, operation_cnt, total_ns, Operation(*worst))
