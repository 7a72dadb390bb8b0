"""The wall clock jumps by days and years while workers and supervisors die."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from chaos.faults.base import Landing, Need, Site
from chaos.faults.environment import Watch
from chaos.rig.kills import Killer, Kind
from chaos.rig.node import wait_until
from chaos.rig.wall_clock import WallClock

__all__ = ["ClockJump"]

DAY_S = 86_400
YEARS_S = 10 * 365 * DAY_S
JUMPS_S = (-YEARS_S, -DAY_S, DAY_S, YEARS_S)
KILLS = (Kind.WORKER, Kind.WORKER, Kind.BOTH)
TOLERANCE_S = 3600  # between the jump and what an event says


class ClockJump:
    """Two jumps in a row, a death after each, then the clock is right again.

    Args:
        clock: what is set; another one in tests.
    """

    kind = "clock-jump"
    about = "the wall clock jumps by a day or ten years at take-overs: nothing depends on it"
    needs = frozenset({Need.CLOCK, Need.SUPERVISED})

    def __init__(self, clock: Callable[[], WallClock] = WallClock) -> None:
        self._clock = clock

    def inflict(self, site: Site, chance: random.Random) -> Landing:
        node, watch = site.node, Watch(site)
        killer = Killer(node, site.device.journal.read, wait_until, site.patience_s)
        last = watch.last_event()
        watch.strike_now()
        kinds, jumps, seen_s = [], chance.sample(JUMPS_S, 2), []
        with self._clock() as clock:
            for jump_s in jumps:
                wait_until(node.has_standby, site.patience_s, "a warm standby")
                clock.jump(jump_s)
                kinds.append(chance.choice(KILLS))
                killer.kill(kinds[-1])
                watch.wait_until_it_goes_on()
                watch.wait_for_supervisor()
                done = watch.events_since(last, "takeover.done")
                seen_s.append(float(done[-1]["ts"]) - clock.now_s() if done else 0.0)
                last = watch.last_event()
        wrong = _judge(watch, jumps, seen_s)
        watch.wait_until_it_goes_on()
        both = kinds.count(Kind.BOTH)
        return watch.landing(
            has_landed=any(
                abs(seen - jump) < TOLERANCE_S for seen, jump in zip(seen_s, jumps, strict=True)
            ),
            evidence="; ".join(
                f"{kind.value} died {jump / DAY_S:+.0f} days off, its event is {seen / DAY_S:+.1f}"
                for kind, jump, seen in zip(kinds, jumps, seen_s, strict=True)
            ),
            wrong=wrong,
            served_ns=time.monotonic_ns(),
            workers_killed=len(kinds),
            supervisors_killed=both,
        )


def _judge(watch: Watch, jumps: list[int], seen_s: list[float]) -> list[str]:
    """Every take-over is in the events; the device is online and waits for nothing."""
    wrong = []
    for jump, seen in zip(jumps, seen_s, strict=True):
        if seen == 0.0:
            wrong.append(f"no take-over was noted after a jump of {jump} s")
    row = watch.site.node.device_row(watch.site.device.name)
    if row is None or row["phase"] != "online" or row["reason"]:
        wrong.append(f"{watch.site.device.name} after the jumps: {row}")
    return wrong
