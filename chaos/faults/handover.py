"""Deaths in the middle of a planned hand-over: of the old worker, the new one, the supervisor."""

from __future__ import annotations

import random
import signal
import threading
import time

from chaos.faults.base import Landing, Need, Site
from chaos.rig.node import wait_until
from chaos.rig.problem import RigError
from chaos.rig.process import Process
from obdsup.errors import ObdError

__all__ = ["KillInHandover"]

LONGEST_DELAY_S = 0.03  # a hand-over takes about as long, less on an idle machine
SETTLE_S = 0.002
TRIES = 8
VICTIMS = ("old worker", "new worker", "supervisor")


class KillInHandover:
    kind = "kill-in-handover"
    about = "SIGKILL of the old worker, the new one or the supervisor during `device handover`"
    needs = frozenset({Need.SUPERVISED})

    def inflict(self, site: Site, chance: random.Random) -> Landing:
        victim = chance.choice(VICTIMS)
        longest_s = LONGEST_DELAY_S
        for _ in range(TRIES):
            landing = self._attempt(site, victim, chance.uniform(0, longest_s), chance)
            if landing.has_landed:
                break
            longest_s *= 0.6  # it was over before: hand-overs are faster here
        return landing

    def _attempt(self, site: Site, victim: str, delay_s: float, chance: random.Random) -> Landing:
        """One hand-over; the victim is stopped in it, and dies if the request is open still."""
        wait_until(site.node.has_standby, site.patience_s, "a warm standby")
        before = site.device.journal.read()
        process = _find(site, victim, before.owner_pid, chance)
        call = _HandoverCall(site)
        with process.held() as send:
            begun_ns = time.monotonic_ns()
            call.start()
            time.sleep(delay_s)
            send(signal.SIGSTOP)
            time.sleep(SETTLE_S)  # an answer may be under way
            is_caught = call.is_alive()
            killed_ns = time.monotonic_ns()
            was_alive = send(signal.SIGKILL if is_caught else signal.SIGCONT)
        if is_caught and victim == "supervisor":
            process.wait_gone(site.patience_s)
            site.node.restart_supervisor()
        call.join(site.patience_s)
        wait_until(
            lambda: _is_served_since(site, killed_ns), site.patience_s, "service after a hand-over"
        )
        served_ns = time.monotonic_ns()
        wait_until(site.node.is_answering, site.patience_s, "an answer of the supervisor")
        after = site.device.journal.read()
        # An answer may have been under way when its sender died: only a failure proves that a
        # supervisor died before the end. A new worker must have been the one that was chosen.
        has_landed = is_caught and was_alive and (victim == "old worker" or call.has_failed)
        return Landing(
            begun_ns=begun_ns,
            served_ns=served_ns,
            has_landed=has_landed,
            evidence=f"{victim} {'died' if is_caught else 'was too late'} "
            f"{(killed_ns - begun_ns) / 1e6:.1f} ms into the hand-over, "
            f"which {call.result or 'went on'}; generation {before.owner_generation} became "
            f"{after.owner_generation}",
            recovered=max(after.recovered - before.recovered, 0),
            already_done=max(after.already_done - before.already_done, 0),
            workers_killed=int(is_caught and victim == "old worker"),
            supervisors_killed=int(is_caught and victim == "supervisor"),
        )


class _HandoverCall(threading.Thread):
    """One ``device.handover`` request; ``result`` says how it ended."""

    def __init__(self, site: Site) -> None:
        super().__init__(name="handover", daemon=True)
        self.result = ""
        self.has_failed = False
        self._site = site

    def run(self) -> None:
        try:
            self._site.node.ask("device.handover", name=self._site.device.name)
            result = "succeeded"
        except ObdError as error:
            result = f"failed ({type(error).__name__})"
            self.has_failed = True
        self.result = result

    def join(self, timeout: float | None = None) -> None:
        super().join(timeout)
        if self.is_alive():
            raise RigError(f"the hand-over of {self._site.device.name} does not end")


def _find(site: Site, victim: str, owner_pid: int, chance: random.Random) -> Process:
    if victim == "supervisor":
        return site.node.supervisor()
    if victim == "old worker":
        found = [process for process in [Process.of(owner_pid)] if process]
    else:  # the supervisor takes the first that is warm
        found = site.node.workers("standby")[:1]
    if not found:
        raise RigError(f"kill-in-handover: there is no {victim}")
    return found[0]


def _is_served_since(site: Site, killed_ns: int) -> bool:
    """A worker lives that owns the journal, and commands were completed after the kill."""
    counters = site.device.journal.read()
    if Process.of(counters.owner_pid) is None:
        return False
    if counters.first_publish_ns > killed_ns:
        return True
    # the same worker serves on: it completes more now
    time.sleep(0.005)
    later = site.device.journal.read()
    is_same = later.owner_generation == counters.owner_generation
    return is_same and counters.first_publish_ns > 0 and later.completed > counters.completed
