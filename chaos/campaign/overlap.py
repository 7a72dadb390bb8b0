"""Two faults at once: the second strikes while the first is still being recovered from."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from chaos.campaign.outcome import FaultOutcome
from chaos.campaign.plan import PlannedFault
from chaos.faults.base import Landing
from chaos.rig.problem import Overdue, RigError
from obdsup.errors import ObdError

__all__ = ["Struck", "in_pairs", "shared_out", "strike_both"]

LOOK_AGAIN_S = 0.0005
# A worker's death is over in a few milliseconds, a supervisor's in half a second.
LONGEST_DELAYS_S = (0.002, 0.02, 0.2)
WAIT_S = (0.05, 1.5)  # for the first to strike; some strike elsewhere, where it is not seen


@dataclass(frozen=True, slots=True)
class Struck:
    """The landings of both, and whether one struck before the other was over."""

    first: Landing
    second: Landing
    has_overlapped: bool


def in_pairs(
    plan: Iterable[PlannedFault],
) -> Iterator[tuple[PlannedFault, PlannedFault | None]]:
    """Each fault with the one that strikes on top of it, None for most."""
    waiting: PlannedFault | None = None
    for planned in plan:
        if waiting is not None and planned.is_on_top:
            yield waiting, planned
            waiting = None
            continue
        if waiting is not None:
            yield waiting, None
        waiting = planned
    if waiting is not None:
        yield waiting, None


def shared_out(faults: Sequence[FaultOutcome], recovered: int) -> list[FaultOutcome]:
    """The faults with no more than ``recovered`` commands between them.

    Each has counted what was found in flight from its beginning to its end, and so both have what
    lies in both.
    """
    found = []
    for fault in faults:
        again = min(fault.recovered, recovered)
        done = min(fault.already_done, recovered - again)
        recovered -= again + done
        found.append(replace(fault, recovered=again, already_done=done))
    return found


def strike_both(
    first: Callable[[], Landing],
    second: Callable[[], Landing],
    has_struck: Callable[[], bool],
    chance: random.Random,
    patience_s: float,
) -> Struck:
    """Inflicts both and waits for both.

    A fault that met what the other had done (its victim was dead already, nobody answered) has not
    landed; what was waited for in vain is never excused by that.

    Args:
        has_struck: whether the first one's effect is to be seen; asked again and again.
        chance: of the moments in between.
        patience_s: how long the first may outlast the second.

    Raises:
        Overdue: service did not come back after one of them.
    """
    below = _Below(first)
    below.start()
    try:
        deadline = time.monotonic() + chance.uniform(*WAIT_S)
        while below.is_alive() and not has_struck() and time.monotonic() < deadline:
            time.sleep(LOOK_AGAIN_S)
        time.sleep(chance.uniform(0.0, chance.choice(LONGEST_DELAYS_S)))
        on_top = _inflicted(second)
    finally:
        below.join(patience_s)
    if below.is_alive():
        raise Overdue(f"the fault below: not over within {patience_s:.0f} s")
    landings = []
    for landing in (below.landing, on_top):
        if isinstance(landing, Overdue):
            raise landing
        landings.append(landing)
    is_later = landings[0].begun_ns <= landings[1].begun_ns <= landings[0].served_ns
    is_sooner = landings[1].begun_ns <= landings[0].begun_ns <= landings[1].served_ns
    return Struck(landings[0], landings[1], is_later or is_sooner)


class _Below(threading.Thread):
    """The first fault, in a thread of its own."""

    def __init__(self, inflict: Callable[[], Landing]) -> None:
        super().__init__(name="fault-below", daemon=True)
        self.landing: Landing | Overdue = Overdue("the fault below was not inflicted")
        self._inflict = inflict

    def run(self) -> None:
        self.landing = _inflicted(self._inflict)


def _inflicted(inflict: Callable[[], Landing]) -> Landing | Overdue:
    begun_ns = time.monotonic_ns()
    try:
        return inflict()
    except Overdue as error:
        return error
    except (RigError, ObdError, OSError) as error:
        return Landing(
            begun_ns=begun_ns,
            served_ns=time.monotonic_ns(),
            has_landed=False,
            evidence=f"given up, the other fault was sooner: {error}",
        )
