"""Workers that are not killed: stopped for a while, or told to end."""

from __future__ import annotations

import random
import signal
import time

from chaos.faults.base import Landing, Need, Site
from chaos.rig.counters import Counters
from chaos.rig.kills import aim
from chaos.rig.node import wait_until
from chaos.rig.problem import RigError
from chaos.rig.process import Process

__all__ = ["WorkerHang", "WorkerStop", "WorkerTerm"]

SHORTEST_STOP_S = 0.02
LONGEST_STOP_S = 0.5
SUPERVISED = frozenset({Need.SUPERVISED})


class WorkerStop:
    kind = "worker-stop"
    about = "SIGSTOP of the serving worker for 20 to 500 ms, then SIGCONT: a pause, no take-over"
    needs = SUPERVISED

    def inflict(self, site: Site, chance: random.Random) -> Landing:
        pause_s = chance.uniform(SHORTEST_STOP_S, LONGEST_STOP_S)
        worker = _worker(site)
        with worker.held() as send:
            aim(site.device.journal.read, site.patience_s)
            begun_ns = time.monotonic_ns()
            send(signal.SIGSTOP)
            try:
                wait_until(worker.is_stopped, site.patience_s, "the worker to be stopped")
                stopped = site.device.journal.read()
                time.sleep(pause_s)
                still = site.device.journal.read()
            finally:
                send(signal.SIGCONT)
        wait_until(
            lambda: site.device.journal.read().completed > still.completed,
            site.patience_s,
            "a completion after SIGCONT",
        )
        after = site.device.journal.read()
        served_ns = time.monotonic_ns()
        wrong = []
        if site.is_alone and still.completed != stopped.completed:
            wrong.append(f"{still.completed - stopped.completed} commands completed while stopped")
        is_same = _owner(after) == _owner(still)
        if site.is_alone and not is_same:
            wrong.append("a worker that was stopped for a moment was replaced")
        return Landing(
            begun_ns=begun_ns,
            served_ns=served_ns,
            has_landed=stopped.in_flight > 0,
            evidence=f"{stopped.in_flight} in flight while stopped for {pause_s * 1000:.0f} ms",
            wrong=tuple(wrong),
        )


class WorkerHang:
    kind = "worker-hang"
    about = "SIGSTOP of the serving worker for good: it is found hung, killed and replaced"
    needs = SUPERVISED

    def inflict(self, site: Site, chance: random.Random) -> Landing:
        before = site.device.journal.read()
        worker = _worker(site)
        with worker.held() as send:
            aim(site.device.journal.read, site.patience_s)
            begun_ns = time.monotonic_ns()
            send(signal.SIGSTOP)
            wait_until(worker.is_stopped, site.patience_s, "the worker to be stopped")
            stopped = site.device.journal.read()
        wait_until(
            lambda: _is_served_anew(site.device.journal.read(), before, begun_ns),
            site.patience_s,
            "a successor of the hung worker",
        )
        after = site.device.journal.read()
        worker.wait_gone(site.patience_s)
        return Landing(
            begun_ns=begun_ns,
            served_ns=after.first_publish_ns,
            has_landed=stopped.in_flight > 0,
            evidence=f"stopped with {stopped.in_flight} in flight, killed by the supervisor",
            recovered=after.recovered - before.recovered,
            already_done=after.already_done - before.already_done,
            workers_killed=1,
        )


class WorkerTerm:
    kind = "worker-term"
    about = "SIGTERM of the serving worker: it ends at a command boundary, a standby goes on"
    needs = SUPERVISED

    def inflict(self, site: Site, chance: random.Random) -> Landing:
        worker = _worker(site)
        with worker.held() as send:
            before = aim(site.device.journal.read, site.patience_s)
            begun_ns = time.monotonic_ns()
            has_landed = send(signal.SIGTERM)
        wait_until(
            lambda: _is_served_anew(site.device.journal.read(), before, begun_ns),
            site.patience_s,
            "service after SIGTERM of the worker",
        )
        after = site.device.journal.read()
        has_ended = worker.wait_gone(site.patience_s)
        return Landing(
            begun_ns=begun_ns,
            served_ns=after.first_publish_ns,
            has_landed=has_landed and has_ended,
            evidence=f"{before.in_flight} in flight at SIGTERM, generation "
            f"{before.owner_generation} became {after.owner_generation}",
            recovered=after.recovered - before.recovered,
            already_done=after.already_done - before.already_done,
            workers_killed=1,
        )


def _worker(site: Site) -> Process:
    pid = site.device.journal.read().owner_pid
    process = Process.of(pid)
    if process is None:
        raise RigError(f"the journal names worker {pid}, which is not running")
    return process


def _owner(counters: Counters) -> tuple[int, int]:
    return counters.owner_pid, counters.owner_generation


def _is_served_anew(now: Counters, before: Counters, begun_ns: int) -> bool:
    is_new = now.owner_generation > before.owner_generation
    return is_new and now.first_publish_ns > begun_ns
