"""A successor that dies while it recovers: recovering must be interruptible anywhere."""

from __future__ import annotations

import random
import signal
import time
from contextlib import ExitStack

from chaos.faults.base import Landing, Need, Site
from chaos.rig.counters import Counters
from chaos.rig.kills import aim
from chaos.rig.node import wait_until
from chaos.rig.problem import RigError
from chaos.rig.process import Process

__all__ = ["KillInRecovery"]


class KillInRecovery:
    kind = "kill-in-recovery"
    about = "SIGKILL of the worker, and of its successor before it has completed anything"
    needs = frozenset({Need.SUPERVISED})

    def inflict(self, site: Site, chance: random.Random) -> Landing:
        read = site.device.journal.read
        first = Process.of(read().owner_pid)
        if first is None:
            raise RigError("the journal names a worker that is not running")
        with ExitStack() as stack:
            # looked up before: afterwards there is a fraction of a millisecond
            heirs = {
                heir.pid: stack.enter_context(heir.held()) for heir in site.node.workers("standby")
            }
            kill_first = stack.enter_context(first.held())
            before = aim(read, site.patience_s)
            begun_ns = time.monotonic_ns()
            kill_first(signal.SIGKILL)
            heir_pid = _wait_for_heir(site, before)
            killed_ns = time.monotonic_ns()
            if heir_pid in heirs:
                heirs[heir_pid](signal.SIGKILL)
        heir = Process.of(heir_pid)
        if heir is not None:
            heir.send(signal.SIGKILL)  # a standby that was not there yet; fine when it is dead
            heir.wait_gone(site.patience_s)
        between = read()  # as the successor left it: the next one's attach takes longer than this
        wait_until(
            lambda: _is_served_by_another(read(), heir_pid, killed_ns),
            site.patience_s,
            "service after a successor died in its recovery",
        )
        after = read()
        return Landing(
            begun_ns=begun_ns,
            served_ns=after.first_publish_ns,
            has_landed=between.owner_pid == heir_pid and between.first_publish_ns == 0,
            evidence=f"successor {heir_pid} (generation {between.owner_generation}) died "
            f"{(killed_ns - begun_ns) / 1e6:.1f} ms after its predecessor, having completed "
            f"{'nothing' if between.first_publish_ns == 0 else 'some'}",
            recovered=after.recovered - before.recovered,
            already_done=after.already_done - before.already_done,
            workers_killed=2,
        )


def _wait_for_heir(site: Site, before: Counters) -> int:
    """Waits, without a pause, for the pid of the next worker that owns the journal."""
    deadline = time.monotonic() + site.patience_s
    while time.monotonic() < deadline:
        now = site.device.journal.read()
        if now.owner_generation > before.owner_generation and now.owner_pid not in (
            0,
            before.owner_pid,
        ):
            return now.owner_pid
    raise RigError(f"no successor took over within {site.patience_s:.0f} s")


def _is_served_by_another(now: Counters, heir_pid: int, killed_ns: int) -> bool:
    return now.owner_pid not in (0, heir_pid) and now.first_publish_ns > killed_ns
