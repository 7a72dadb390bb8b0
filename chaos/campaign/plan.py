"""The faults of a campaign in order, from a seed: the same on every machine, however slow.

A plan counts faults, not seconds: when the next one strikes depends on the machine (service is
back, a standby is warm), which one it is, where, and with what random numbers does not.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace

__all__ = ["FaultShare", "PlannedFault", "endless_plan", "make_plan", "overlapping"]

LONGEST_PAUSE_S = 0.05
SEED_LIMIT = 1 << 48


@dataclass(frozen=True, slots=True)
class FaultShare:
    """How often a kind of fault comes up. ``is_kill``: a worker that serves dies of each."""

    kind: str
    weight: int
    is_kill: bool


@dataclass(frozen=True, slots=True)
class PlannedFault:
    """One fault: ``device`` is an index, ``seed`` that of its random source."""

    number: int
    kind: str
    device: int
    seed: int
    pause_s: float  # before it, so that it does not follow the recovery at a fixed distance
    is_on_top: bool = False  # strikes while the one before it is being recovered from


def make_plan(
    seed: int, shares: Sequence[FaultShare], kills: int, device_cnt: int
) -> list[PlannedFault]:
    """A plan with at least ``kills`` faults of killing kinds; each kind comes up at least once.

    Kinds that kill no serving worker come on top, in proportion to their weights. When none of the
    kinds kills, ``kills`` is the number of faults.

    Raises:
        ValueError: no kinds, a weight below 1, or nothing to plan.
    """
    if not shares or kills < 1 or device_cnt < 1 or any(share.weight < 1 for share in shares):
        raise ValueError("a plan needs kinds of fault with weights, devices, and a number of kills")
    counts = _counts(shares, kills)
    kinds = [kind for kind, count in counts.items() for _ in range(count)]
    source = random.Random(f"plan/{seed}")
    source.shuffle(kinds)
    return [_planned(number, kind, source, device_cnt) for number, kind in enumerate(kinds)]


def endless_plan(
    seed: int, shares: Sequence[FaultShare], device_cnt: int
) -> Iterator[PlannedFault]:
    """A plan without end, for campaigns of a given time: rounds in which each kind has its weight.

    The first round begins with each kind once, so that a short campaign has met all of them.
    """
    if not shares or device_cnt < 1 or any(share.weight < 1 for share in shares):
        raise ValueError("a plan needs kinds of fault with weights, and devices")
    source = random.Random(f"plan/{seed}")
    return _endless(source, shares, device_cnt)


def overlapping(
    plan: Iterable[PlannedFault], seed: int, percent: int, below: Set[str], on_top: Set[str]
) -> Iterator[PlannedFault]:
    """The same plan, in which some faults strike on top of the one before them.

    Args:
        percent: of the faults of which both are possible.
        below: kinds during which another one may strike.
        on_top: kinds that may strike then.
    """
    source = random.Random(f"overlap/{seed}")
    before: PlannedFault | None = None
    for planned in plan:
        is_drawn = source.randrange(100) < percent
        is_possible = before is not None and before.kind in below and planned.kind in on_top
        if is_drawn and is_possible:
            yield replace(planned, is_on_top=True)
            before = None  # two at once, not three
        else:
            yield planned
            before = planned


def _endless(
    source: random.Random, shares: Sequence[FaultShare], device_cnt: int
) -> Iterator[PlannedFault]:
    numbers = itertools.count()
    first = [share.kind for share in shares]
    source.shuffle(first)
    for kind in first:
        yield _planned(next(numbers), kind, source, device_cnt)
    while True:
        kinds = [share.kind for share in shares for _ in range(share.weight)]
        source.shuffle(kinds)
        for kind in kinds:
            yield _planned(next(numbers), kind, source, device_cnt)


def _planned(number: int, kind: str, source: random.Random, device_cnt: int) -> PlannedFault:
    return PlannedFault(
        number=number,
        kind=kind,
        device=source.randrange(device_cnt),
        seed=source.randrange(SEED_LIMIT),
        pause_s=round(source.uniform(0, LONGEST_PAUSE_S), 4),
    )


def _counts(shares: Sequence[FaultShare], kills: int) -> Mapping[str, int]:
    counted = [share for share in shares if share.is_kill] or list(shares)
    total = sum(share.weight for share in counted)
    counts = {share.kind: max(1, kills * share.weight // total) for share in shares}
    # what rounding took away goes to the most frequent kind
    missing = kills - sum(counts[share.kind] for share in counted)
    most = max(counted, key=lambda share: share.weight)
    counts[most.kind] += max(missing, 0)
    return counts
