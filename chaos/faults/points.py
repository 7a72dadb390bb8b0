"""Deaths at exactly named places of a worker's code; for an installation with test hooks."""

from __future__ import annotations

import contextlib
import random
import signal
import time

from chaos.faults.base import Landing, Need, Site
from chaos.rig.counters import Counters, DeviceJournal
from chaos.rig.failpoints import Action, FailPoints, Hit
from chaos.rig.kills import aim
from chaos.rig.node import wait_until
from chaos.rig.problem import RigError
from chaos.rig.process import Process
from obdsup.errors import ObdError

__all__ = ["PointInHandover", "PointInRecovery", "WorkerSegv"]

HOOKED = frozenset({Need.SUPERVISED, Need.HOOKS})
MOST_PASSES = 200
# Each is passed again and again by a worker that serves a mixed load.
SERVING_POINTS = (
    "pickup.copy", "pickup.valid", "pickup.next", "pickup.done",
    "start.executing", "start.done", "command.run",
    "upper.data", "upper.written", "upper.record", "upper.visible", "upper.committed",
    "publish.record", "publish.record_valid", "publish.cmd_id", "publish.response",
    "publish.tail", "publish.committed", "publish.free", "publish.clear", "publish.done",
    "serve.kick",
)  # fmt: skip
# Each is passed once by every successor, and by nobody else.
RECOVERY_POINTS = (
    "attach.lock", "attach.open", "attach.check", "attach.writer",
    "attach.generation", "recover.clear", "recover.done", "attach.taken", "attach.kick",
)  # fmt: skip
# By a worker that lets go, and by the one that goes on.
HANDOVER_POINTS = (
    "drain.asked", "drain.kick", "drain.done", "detach.writer", "detach.owner", "detach.unlock",
    "attach.open", "attach.generation", "attach.taken", "attach.kick",
)  # fmt: skip
HIT_TIMEOUT_S = 10.0


class WorkerSegv:
    kind = "worker-segv"
    about = "SIGSEGV of a serving worker at a named point of its code (store by store)"
    needs = HOOKED

    def inflict(self, site: Site, chance: random.Random) -> Landing:
        points = _points(site)
        point, count = chance.choice(SERVING_POINTS), chance.randint(1, MOST_PASSES)
        before = _read_all(site)
        begun_ns = time.monotonic_ns()
        number = _last(points)
        points.arm(point, Action.SIGSEGV, count=count)
        hit = _wait(site, number)
        return _landing(site, before, begun_ns, hit, point, workers_killed=1)


class PointInRecovery:
    kind = "recovery-point"
    about = "SIGKILL of a worker, and of its successor at a named point of its recovery"
    needs = HOOKED

    def inflict(self, site: Site, chance: random.Random) -> Landing:
        points = _points(site)
        point, repeat = chance.choice(RECOVERY_POINTS), chance.randint(1, 2)
        worker = Process.of(site.device.journal.read().owner_pid)
        if worker is None:
            raise RigError("the journal names a worker that is not running")
        with worker.held() as send:
            aim(site.device.journal.read, site.patience_s)
            before = _read_all(site)
            number = _last(points)
            points.arm(point, Action.SIGKILL, repeat=repeat)
            begun_ns = time.monotonic_ns()
            send(signal.SIGKILL)
        hit = _wait(site, number, repeat)
        return _landing(site, before, begun_ns, hit, point, workers_killed=1 + repeat)


class PointInHandover:
    kind = "handover-point"
    about = "SIGKILL of the old or the new worker at a named point of a planned hand-over"
    needs = HOOKED

    def inflict(self, site: Site, chance: random.Random) -> Landing:
        points = _points(site)
        point = chance.choice(HANDOVER_POINTS)
        before = _read_all(site)
        number = _last(points)
        points.arm(point, Action.SIGKILL)
        begun_ns = time.monotonic_ns()
        with contextlib.suppress(ObdError):  # it may fail: what counts is who serves afterwards
            site.node.ask("device.handover", name=site.device.name)
        hit = _wait(site, number)
        return _landing(site, before, begun_ns, hit, point, workers_killed=1)


def _points(site: Site) -> FailPoints:
    if site.failpoints is None:
        raise RigError("the installation has no failpoints: run with --hooks")
    return site.failpoints


def _last(points: FailPoints) -> int:
    hits = points.hits()
    return hits[-1].number if hits else -1


def _wait(site: Site, after: int, hit_cnt: int = 1) -> Hit | None:
    """The last hit, its process dead; None: nobody came by, and the fault has not landed."""
    points, hit = _points(site), None
    try:
        for _ in range(hit_cnt):
            hit = points.wait(HIT_TIMEOUT_S, after=hit.number if hit else after)
    except RigError:
        return None
    finally:
        points.disarm()
    process = Process.of(hit.pid) if hit else None
    if process is not None and not process.wait_gone(site.patience_s):
        raise RigError(f"worker {process.pid} outlived its failpoint")
    return hit


def _read_all(site: Site) -> dict[str, Counters]:
    rows = site.node.ask("device.list")
    return {row["name"]: DeviceJournal(site.node.run_dir, row["name"]).read() for row in rows}


def _landing(
    site: Site,
    before: dict[str, Counters],
    begun_ns: int,
    hit: Hit | None,
    point: str,
    workers_killed: int,
) -> Landing:
    """Waits until every device is served: whose worker died is known by its journal alone."""
    for name in before:
        wait_until(
            lambda name=name: _is_served(site, name),  # type: ignore[misc]
            site.patience_s,
            f"service of {name} after {point}",
        )
    served_ns = time.monotonic_ns()
    after = _read_all(site)
    recovered = sum(after[name].recovered - before[name].recovered for name in before)
    done = sum(after[name].already_done - before[name].already_done for name in before)
    met = f"{hit.action.name} of {hit.pid} (generation {hit.generation})" if hit else "never passed"
    return Landing(
        begun_ns=begun_ns,
        served_ns=served_ns,
        has_landed=hit is not None,
        evidence=f"{point}: {met}; {recovered} in flight, {done} done were found",
        recovered=max(recovered, 0),
        already_done=max(done, 0),
        workers_killed=workers_killed if hit else 0,
    )


def _is_served(site: Site, name: str) -> bool:
    journal = DeviceJournal(site.node.run_dir, name)
    counters = journal.read()
    if Process.of(counters.owner_pid) is None or not counters.first_publish_ns:
        return False
    return journal.read().owner_generation == counters.owner_generation
