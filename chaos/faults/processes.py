"""Deaths: of the serving worker, of the supervisor, of both, of a standby, of all workers at once.

A worker's death has landed when its successor found commands in flight in the journal; that of a
supervisor when the next one answers and the worker that served before serves still.
"""

from __future__ import annotations

import random
import signal
import time
from contextlib import ExitStack

from chaos.faults.base import Landing, Need, Site
from chaos.rig.counters import Counters, DeviceJournal
from chaos.rig.kills import Killer, Kind, aim
from chaos.rig.node import wait_until
from chaos.rig.problem import RigError
from chaos.rig.process import Process

__all__ = ["AllWorkersKill", "BothKill", "StandbyKill", "SupervisorKill", "WorkerKill"]

SUPERVISED = frozenset({Need.SUPERVISED})
CAUGHT_SHARE = 0.75  # the others are shot at on the run


class WorkerKill:
    kind = "worker-kill"
    about = "SIGKILL of the worker that serves, with commands in flight; a standby goes on"
    needs = SUPERVISED

    def inflict(self, site: Site, chance: random.Random) -> Landing:
        return _killed(site, Kind.WORKER, chance)


class BothKill:
    kind = "both-kill"
    about = "SIGKILL of supervisor and worker at once; the next supervisor has a new worker serve"
    needs = SUPERVISED

    def inflict(self, site: Site, chance: random.Random) -> Landing:
        return _killed(site, Kind.BOTH, chance)


def _killed(site: Site, kind: Kind, chance: random.Random) -> Landing:
    is_caught = chance.random() < CAUGHT_SHARE
    landed = _killer(site).kill(kind, is_caught=is_caught)
    return Landing(
        begun_ns=landed.killed_ns,
        served_ns=landed.served_ns,
        has_landed=landed.hit_in_flight,
        evidence=f"{'stopped, then killed' if is_caught else 'killed'}: the successor found "
        f"{landed.recovered} in flight, {landed.already_done} done",
        recovered=landed.recovered,
        already_done=landed.already_done,
        workers_killed=1,
        supervisors_killed=int(kind is Kind.BOTH),
    )


class SupervisorKill:
    kind = "supervisor-kill"
    about = "SIGKILL of the supervisor; its worker serves on and is adopted by the next one"
    needs = SUPERVISED

    def inflict(self, site: Site, chance: random.Random) -> Landing:
        before = site.device.journal.read()
        landed = _killer(site).kill(Kind.SUPERVISOR, is_worker_kept=site.is_alone)
        served = site.device.journal.read().completed - before.completed
        return Landing(
            begun_ns=landed.killed_ns,
            served_ns=landed.served_ns,
            has_landed=True,  # the killer raises unless the next one answers
            evidence=f"worker {before.owner_pid} {'adopted' if site.is_alone else 'served'}, "
            f"{served} commands served meanwhile",
            supervisors_killed=1,
        )


class StandbyKill:
    kind = "standby-kill"
    about = "SIGKILL of a warm standby; another one gets ready, nobody who serves notices"
    needs = SUPERVISED

    def inflict(self, site: Site, chance: random.Random) -> Landing:
        standbys = site.node.workers("standby")
        if not standbys:
            raise RigError("standby-kill: the supervisor has no standby though one was ready")
        victim = chance.choice(standbys)
        before = site.device.journal.read()
        begun_ns = time.monotonic_ns()
        has_landed = victim.send(signal.SIGKILL)
        victim.wait_gone(site.patience_s)
        ready = len(standbys)
        wait_until(
            lambda: _count_others(site, victim) >= ready, site.patience_s, "the next warm standby"
        )
        after = site.device.journal.read()
        is_fine = _is_same_owner(before, after) or not site.is_alone
        wrong = () if is_fine else ("the serving worker changed",)
        return Landing(
            begun_ns=begun_ns,
            served_ns=time.monotonic_ns(),
            has_landed=has_landed,
            evidence=f"standby {victim.pid} died, {ready} standbys again",
            wrong=wrong,
            workers_killed=0,
        )


class AllWorkersKill:
    kind = "all-workers-kill"
    about = "SIGKILL of every worker and standby at once; each device is served again"
    needs = SUPERVISED

    def inflict(self, site: Site, chance: random.Random) -> Landing:
        names = [site.device.name]
        if site.is_alone:  # else there may be devices that nobody uses
            names = [row["name"] for row in site.node.ask("device.list")]
        journals = {name: DeviceJournal(site.node.run_dir, name) for name in names}
        victims = [*site.node.workers("serving"), *site.node.workers("standby")]
        chance.shuffle(victims)
        aim(site.device.journal.read, site.patience_s)
        before = {name: journal.read() for name, journal in journals.items()}
        with ExitStack() as stack:
            sends = [stack.enter_context(victim.held()) for victim in victims]
            begun_ns = time.monotonic_ns()
            killed = sum(send(signal.SIGKILL) for send in sends)
        for name, journal in journals.items():
            wait_until(
                lambda journal=journal, name=name: _is_served_anew(  # type: ignore[misc]
                    journal.read(), before[name], begun_ns
                ),
                site.patience_s,
                f"service of {name} after all workers died",
            )
        served_ns = time.monotonic_ns()
        after = {name: journal.read() for name, journal in journals.items()}
        recovered = sum(after[name].recovered - before[name].recovered for name in journals)
        done = sum(after[name].already_done - before[name].already_done for name in journals)
        return Landing(
            begun_ns=begun_ns,
            served_ns=served_ns,
            has_landed=recovered + done > 0,
            evidence=f"{killed} processes died, {recovered} in flight and {done} done were found",
            recovered=recovered,
            already_done=done,
            workers_killed=len(journals),
        )


def _killer(site: Site) -> Killer:
    return Killer(site.node, site.device.journal.read, wait_until, site.patience_s)


def _count_others(site: Site, dead: Process) -> int:
    if site.node.standbys_ready() == 0:
        return 0
    return sum(process != dead for process in site.node.workers("standby"))


def _is_same_owner(before: Counters, after: Counters) -> bool:
    return (before.owner_pid, before.owner_generation) == (after.owner_pid, after.owner_generation)


def _is_served_anew(now: Counters, before: Counters, begun_ns: int) -> bool:
    is_new = now.owner_generation > before.owner_generation
    return is_new and now.first_publish_ns > begun_ns
