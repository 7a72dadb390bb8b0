"""When what is killed: a plan made from a seed, so that a run can be repeated."""

from __future__ import annotations

import random
from dataclasses import dataclass

from chaos.rig.kills import Kind

__all__ = ["PlannedKill", "Rhythm", "plan"]

JITTER_SHARE = 0.3
LAST_KILL_BEFORE_END_S = 0.5


@dataclass(frozen=True, slots=True)
class Rhythm:
    """Seconds between two kills of a kind."""

    worker_s: float = 1.0
    supervisor_s: float = 10.0
    both_s: float = 20.0


@dataclass(frozen=True, slots=True)
class PlannedKill:
    """One kill, in seconds from the start of the workload."""

    at_s: float
    kind: Kind


def plan(seconds: float, seed: int, rhythm: Rhythm = Rhythm()) -> list[PlannedKill]:
    """The kills of a run in order of time.

    The supervisor dies at 1, 2, 3 … times its period; both die first at 3/4 of theirs, so that the
    two never meet. A worker's kill moves by up to 30 % of its period either way, and is left out
    where it would come within half a period of a kill of another kind.
    """
    end_s = seconds - LAST_KILL_BEFORE_END_S
    special = [
        *_every(rhythm.supervisor_s, rhythm.supervisor_s, end_s, Kind.SUPERVISOR),
        *_every(rhythm.both_s * 0.75, rhythm.both_s, end_s, Kind.BOTH),
    ]
    source = random.Random(seed)
    kills = list(special)
    for planned in _every(rhythm.worker_s, rhythm.worker_s, end_s, Kind.WORKER):
        moved_s = planned.at_s + source.uniform(-JITTER_SHARE, JITTER_SHARE) * rhythm.worker_s
        if all(abs(moved_s - other.at_s) >= rhythm.worker_s / 2 for other in special):
            kills.append(PlannedKill(round(moved_s, 3), Kind.WORKER))
    return sorted(kills, key=lambda kill: (kill.at_s, kill.kind.value))


def _every(first_s: float, period_s: float, end_s: float, kind: Kind) -> list[PlannedKill]:
    count = max(0, int((end_s - first_s) // period_s) + 1)
    return [PlannedKill(first_s + i * period_s, kind) for i in range(count)]
