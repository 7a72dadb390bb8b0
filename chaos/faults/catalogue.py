"""All faults by name, how often each comes up, and where each can be inflicted."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Set
from dataclasses import dataclass

from chaos.faults.base import Fault, Need
from chaos.faults.environment_clock import ClockJump
from chaos.faults.environment_disk import FullDisk, FullStateDisk
from chaos.faults.environment_journal import TornJournal
from chaos.faults.environment_lower import CorruptBlock, FailingLower, SilentLower, SlowLower
from chaos.faults.environment_memory import Oom
from chaos.faults.environment_state import BrokenState, ReadOnlyState
from chaos.faults.environment_state_live import DamagedState
from chaos.faults.foreign import Adopt, Release
from chaos.faults.handover import KillInHandover
from chaos.faults.lives import KillInCreate, KillInRemove
from chaos.faults.moves import Reexec, Upgrade, UpgradeCut
from chaos.faults.pauses import WorkerHang, WorkerStop, WorkerTerm
from chaos.faults.points import PointInHandover, PointInRecovery, WorkerSegv
from chaos.faults.poison import PoisonedCommand
from chaos.faults.processes import AllWorkersKill, BothKill, StandbyKill, SupervisorKill, WorkerKill
from chaos.faults.quarantine import Quarantine
from chaos.faults.recovery import KillInRecovery

__all__ = ["CATALOGUE", "CatalogEntry", "Overlap", "entries", "missing_needs"]

ANYWHERE = frozenset({"load", "fuse", "tcmu"})
TCMU = frozenset({"tcmu"})


class Overlap(enum.Enum):
    """Whether a fault and another one may go on at the same time."""

    NEVER = "never"
    BELOW = "below"  # another one may strike before it is over
    BOTH = "both"  # and it may strike before another one is over


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """A fault. ``weight``: how often it comes up beside others; ``is_kill``: a serving worker
    dies of each; ``providers``: where it means something."""

    fault: Fault
    weight: int
    is_kill: bool = False
    providers: Set[str] = ANYWHERE
    overlap: Overlap = Overlap.NEVER


CATALOGUE: dict[str, CatalogEntry] = {
    entry.fault.kind: entry
    for entry in (
        CatalogEntry(WorkerKill(), 1000, is_kill=True, overlap=Overlap.BOTH),
        CatalogEntry(BothKill(), 4, is_kill=True, overlap=Overlap.BOTH),
        CatalogEntry(AllWorkersKill(), 4, is_kill=True, overlap=Overlap.BOTH),
        CatalogEntry(KillInRecovery(), 6, is_kill=True, overlap=Overlap.BOTH),
        CatalogEntry(WorkerTerm(), 4, is_kill=True, overlap=Overlap.BOTH),
        CatalogEntry(WorkerStop(), 4, overlap=Overlap.BELOW),
        CatalogEntry(WorkerHang(), 2, is_kill=True, overlap=Overlap.BOTH),
        CatalogEntry(WorkerSegv(), 200, is_kill=True),
        CatalogEntry(PointInRecovery(), 100, is_kill=True),
        CatalogEntry(PointInHandover(), 50, is_kill=True),
        CatalogEntry(KillInHandover(), 6, overlap=Overlap.BELOW),
        CatalogEntry(KillInCreate(), 3, overlap=Overlap.BELOW),
        CatalogEntry(KillInRemove(), 3, overlap=Overlap.BELOW),
        CatalogEntry(SupervisorKill(), 6, overlap=Overlap.BOTH),
        CatalogEntry(StandbyKill(), 6, overlap=Overlap.BOTH),
        CatalogEntry(Oom(), 10, is_kill=True),
        CatalogEntry(TornJournal(), 3, is_kill=True),
        CatalogEntry(FullStateDisk(), 1, is_kill=True),
        CatalogEntry(ReadOnlyState(), 2, is_kill=True),
        CatalogEntry(ClockJump(), 2, is_kill=True),
        CatalogEntry(BrokenState(), 3),
        CatalogEntry(DamagedState(), 2, is_kill=True),
        CatalogEntry(PoisonedCommand(), 2),
        CatalogEntry(Quarantine(), 2, overlap=Overlap.BELOW),
        CatalogEntry(Adopt(), 2, providers=TCMU, overlap=Overlap.BELOW),
        CatalogEntry(Release(), 2, providers=TCMU, overlap=Overlap.BELOW),
        CatalogEntry(Reexec(), 3, overlap=Overlap.BELOW),
        CatalogEntry(Upgrade(), 1),
        CatalogEntry(UpgradeCut(), 2, is_kill=True),
        CatalogEntry(FullDisk(), 2),
        CatalogEntry(SlowLower(), 2),
        CatalogEntry(SilentLower(), 2, is_kill=True),
        CatalogEntry(FailingLower(), 2),
        CatalogEntry(CorruptBlock(), 2),
    )
}


def entries(names: Iterable[str]) -> list[CatalogEntry]:
    """The entries of these names, in the catalogue's order; ``all`` is every one.

    Raises:
        ValueError: a name that is none; says which there are.
    """
    wanted = set(names)
    unknown = wanted - CATALOGUE.keys() - {"all"}
    if unknown:
        raise ValueError(
            f"no fault is called {', '.join(sorted(unknown))}; there are {', '.join(CATALOGUE)}"
        )
    return [e for name, e in CATALOGUE.items() if name in wanted or "all" in wanted]


def missing_needs(entry: CatalogEntry, provider: str, offers: Set[Need]) -> list[str]:
    """Why the fault can not be inflicted there, one line each; empty when it can."""
    missing = sorted(f"needs {need.value}" for need in entry.fault.needs - offers)
    if provider not in entry.providers:
        missing.append(f"means nothing with provider {provider}")
    return missing
