"""One trial: a planted bug, a load, and events until the bug is caught or a bound is reached."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from chaos.planted.bugs import Bug
from chaos.planted.generator import UNNAMED
from chaos.planted.rig import PlantedRig
from chaos.rig.failpoints import Action
from chaos.rig.kills import Kind
from chaos.rig.node import wait_until
from chaos.rig.problem import RigError

__all__ = ["Verdict", "run_trial"]

HANG_S = 10.0  # nothing completes although commands are in flight
HIT_S = 15.0
SETTLE_S = 2.0
STILL_S = 3.0
PAUSE_S = (0.05, 0.4)
# Passed once per take-over: armed before a kill, at the first pass.
_RECOVERY = ("attach.", "recover.", "replay.")
_RECOVERY_OF_UPPER = ("upper.lock", "upper.follow", "upper.pending", "upper.writing")
_HAND_OVER = ("drain.", "detach.")
_RARE = {"flush.": 4, "upper.": 60}  # count at most, by the start of the name
_OFTEN = 400


@dataclass(slots=True)
class Verdict:
    """What came of one trial. ``caught_by``: how often, by kind; empty: nothing was found."""

    bug: Bug
    seed: int
    caught_by: dict[str, int] = field(default_factory=dict)
    detail: str = ""
    events: int = 0
    kills: int = 0
    commands: int = 0
    seconds: float = 0.0
    has_failed: bool = False  # it could not be carried out

    @property
    def is_as_wanted(self) -> bool:
        """A bug was caught; without one, nothing was found."""
        return not self.has_failed and bool(self.caught_by) is bool(self.bug.name)

    def to_json(self) -> dict[str, object]:
        """As in planted.json."""
        return {
            "bug": self.bug.name,
            "about": self.bug.about,
            "with": list(self.bug.with_),
            "seed": self.seed,
            "caught": bool(self.caught_by),
            "caught_by": self.caught_by,
            "detail": self.detail,
            "failed": self.has_failed,
            "events": self.events,
            "kills": self.kills,
            "commands": self.commands,
            "seconds": round(self.seconds, 1),
        }


def run_trial(bug: Bug, seed: int, event_cnt: int) -> Verdict:
    """Runs one; ``event_cnt`` is the bound.

    Raises:
        RigError: the installation could not be put up or taken down.
    """
    verdict = Verdict(bug, seed)
    begun_s = time.monotonic()
    with PlantedRig(bug, seed) as rig:
        _Trial(rig, bug, verdict, seed).run(event_cnt)
    verdict.seconds = time.monotonic() - begun_s
    return verdict


class _Trial:
    def __init__(self, rig: PlantedRig, bug: Bug, verdict: Verdict, seed: int) -> None:
        self._rig = rig
        self._bug = bug
        self._verdict = verdict
        self._chance = random.Random(seed)
        self._last_hit = -1
        self._events: dict[str, Callable[[], None]] = {
            "kill": lambda: self._kill(Kind.WORKER),
            "both": lambda: self._kill(Kind.BOTH),
            "hand-over": self._hand_over,
            "pause": lambda: time.sleep(self._chance.uniform(*PAUSE_S)),
            "lap": self._lap,
        }

    def run(self, event_cnt: int) -> None:
        """Until something is found, or event_cnt events were survived and all was read back."""
        try:
            for event in self._schedule(event_cnt):
                self._expect_progress()
                if not self._verdict.caught_by:
                    self._events.get(event, lambda name=event: self._die_at(name))()
                self._verdict.events += 1
                self._look()
                if self._verdict.caught_by:
                    self._name_it()
                    return
            self._verdict.commands = self._rig.commands()
            self._verdict.caught_by, lines = self._rig.finish()
            self._verdict.detail = lines[0] if lines else ""
        except RigError as error:
            self._judge(error)

    def _schedule(self, event_cnt: int) -> list[str]:
        """Every kind of event as often as any other, in an order from the seed."""
        kinds = self._bug.events
        events = [kinds[i % len(kinds)] for i in range(event_cnt)]
        self._chance.shuffle(events)
        return events

    def _look(self) -> None:
        self._verdict.caught_by = self._rig.findings()
        self._verdict.commands = self._rig.commands()

    def _name_it(self) -> None:
        """Only the final report tells bad sectors apart; a broken installation may not get there.

        A report that is clean after all takes nothing back: something was counted.
        """
        if UNNAMED not in self._verdict.caught_by:
            self._verdict.detail = self._verdict.detail or self._rig.why_reset()
            return
        try:
            found, lines = self._rig.finish()
        except RigError as error:
            self._verdict.detail = self._verdict.detail or str(error)
            return
        self._verdict.caught_by = found or self._verdict.caught_by
        self._verdict.detail = lines[0] if lines else ""

    def _expect_progress(self) -> None:
        """Some commands complete, or something is found."""

        def moves() -> bool:
            return self._rig.commands() > before or bool(self._rig.findings())

        before = self._rig.commands()
        wait_until(moves, HANG_S, f"a completion after {before} commands")
        self._look()

    def _judge(self, error: RigError) -> None:
        """A step did not end: what was found explains it, or I/O stands still, or it is not a bug
        of the worker that is to blame.
        """
        self._verdict.detail = str(error)
        with contextlib.suppress(RigError):
            wait_until(lambda: bool(self._rig.findings()), SETTLE_S, "findings")
        self._look()
        if self._verdict.caught_by:
            self._name_it()
        elif self._stands_still():
            self._verdict.caught_by = {"hang": 1}
        else:
            self._verdict.has_failed = True

    def _stands_still(self) -> bool:
        before = self._rig.commands()
        try:
            wait_until(lambda: self._rig.commands() > before, STILL_S, "a completion")
        except RigError:
            return self._rig.in_flight() > 0
        return False

    def _kill(self, kind: Kind) -> None:
        self._rig.killer.wait_ready()
        self._rig.killer.kill(kind)
        self._verdict.kills += 1

    def _hand_over(self) -> None:
        self._rig.killer.wait_ready()
        with contextlib.suppress(RigError):  # refused: served as before, which is looked at next
            self._rig.node.obdsup("device", "handover", self._rig.devices[0])

    def _lap(self) -> None:
        self._rig.killer.wait_ready()
        self._rig.points.arm_after("pickup.skip", "pickup.copy")
        self._see_it_through()

    def _die_at(self, point: str) -> None:
        self._rig.killer.wait_ready()
        if point.startswith(_HAND_OVER):
            self._rig.points.arm(point, self._death())
            self._hand_over()
        elif point.startswith(_RECOVERY) or point in _RECOVERY_OF_UPPER:
            self._rig.points.arm(point, self._death())
            self._kill(Kind.WORKER)
        else:
            limits = [limit for start, limit in _RARE.items() if point.startswith(start)]
            count = self._chance.randint(1, *(limits or [_OFTEN]))
            self._rig.points.arm(point, self._death(), count=count)
        self._see_it_through()

    def _death(self) -> Action:
        return self._chance.choice((Action.SIGKILL, Action.SIGSEGV, Action.ABORT))

    def _see_it_through(self) -> None:
        """Waits for the hit, and for the first completion by a successor."""
        hit = self._rig.points.wait(HIT_S, after=self._last_hit)
        self._last_hit = hit.number
        self._verdict.kills += 1

        def is_served() -> bool:
            counters = self._rig.journal.read()
            is_next = counters.owner_generation > hit.generation
            return (is_next and counters.first_publish_ns > hit.when_ns) or bool(
                self._rig.findings()
            )

        wait_until(is_served, self._rig.node.patience_s, f"service after a death at {hit.point}")
