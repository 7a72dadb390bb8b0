"""A host in one process whose supervisor can die between any two effects on it.

``Host`` is what outlives a supervisor: the row on disk, the workers, ring and journal. A
``Lifetime`` is one supervisor: everything it does to the host goes through ``Lifetime.effect``,
before and after which it may die. What it has only queued for the disk is then lost, or not.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from obdsup.errors import ObdError, ProviderError, WorkerLost
from obdsup.state import tables
from obdsup.state.device import DeviceRow
from obdsup.state.messages import Packet
from obdsup.state.mirror import Mirror
from obdsup.state.process import ProcessIdentity
from obdsup.supervisor.death import judge_death
from obdsup.supervisor.provider.base import ProviderIds, RingHandle
from obdsup.supervisor.record import Record
from obdsup.supervisor.release import Release, own_release
from obdsup.supervisor.ring_keeper import ServingContext
from obdsup.supervisor.service_machine import ServiceAction, ServiceEvent, ServiceState
from obdsup.supervisor.serving import Serving, _Note
from obdsup.supervisor.settings import Settings
from obdsup.supervisor.worker import Worker
from obdsup.supervisor.worker_machine import WorkerState
from tests.supervisor.fake_worker import FakeWorker

BOOT_ID = "11111111-2222-3333-4444-555555555555"
NAME = "a"


class Crash(BaseException):
    """The supervisor died here; no handler of errors may see it."""


@dataclass(slots=True)
class Plan:
    """What goes wrong with a worker."""

    refuses: dict[str, ObdError] = field(default_factory=dict)  # by operation, once
    dies_in: str = ""  # operation; it is not carried out


class HostWorker(FakeWorker):
    """A worker process, without the process."""

    def __init__(self, worker_id: str) -> None:
        super().__init__(worker_id)
        self.is_alive = True
        self.plan = Plan()

    def complete_commands(self, fd: int) -> None:
        """None are sent: whether deaths are fruitless is for the scenarios to say."""

    def planted(self, what: str) -> bool:
        return False

    def die(self) -> None:
        self.is_alive = False
        for one in self.served.values():
            for fd in [*one["fds"], one["lock"]]:
                os.close(fd)
        self.served.clear()


class Host:
    """One device and what is known and done about it."""

    def __init__(self, folder: Path, disk: Mirror) -> None:
        self.settings = Settings(
            run_dir=folder / "run", state_dir=folder / "state", quarantine_deaths=2,
            kill_timeout_s=1.0, start_timeout_s=1.0,
        )  # fmt: skip
        self.settings.make_directories()
        self.workers: dict[str, HostWorker] = {}
        self.numbers = 0
        self.disk = disk
        disk.apply(tables.delete_device(NAME))
        self.plans: deque[Plan] = deque()  # of the next workers that are asked for
        self.resets = 0
        self.fails_reset = False
        uuid, lowers = "6b1a4c2e-0000-4000-8000-000000000001", (str(folder / "l0"),)
        self.put(
            DeviceRow(NAME, uuid, "/img", lowers, None, None, 1 << 20, "stub", "serving", 0.0, {})
        )

    def put(self, row: DeviceRow) -> None:
        self.disk.apply(tables.put_device(row))

    @property
    def row(self) -> DeviceRow:
        (row,) = self.disk.read(tables.load_devices)  # type: ignore[misc]
        assert isinstance(row, DeviceRow)
        return row

    def spawn(self) -> HostWorker:
        self.numbers += 1
        worker = self.workers[f"w{self.numbers}"] = HostWorker(f"w{self.numbers}")
        return worker

    def servers(self) -> list[HostWorker]:
        return [worker for worker in self.workers.values() if NAME in worker.served]

    def close(self) -> None:
        for worker in self.workers.values():
            worker.die()


class Lifetime:
    """One supervisor on a host; dies at effect number ``crash_at`` (-1: never).

    Args:
        host: what it finds.
        crash_at: where it dies.
        is_lost: with it goes what was queued for the disk.
    """

    def __init__(self, host: Host, crash_at: int = -1, *, is_lost: bool = True) -> None:
        self.host = host
        self.crash_at = crash_at
        self.is_lost = is_lost
        self.effects = 0
        self._queued: list[Callable[[Any], object]] = []
        self.fleet = StubFleet(self)
        context = ServingContext(host.settings, Silence(), self.fleet, BOOT_ID)  # type: ignore[arg-type]
        self.serving = Mortal(self, context)

    def effect(self) -> None:
        """A place to die at."""
        if self.effects == self.crash_at:
            raise Crash
        self.effects += 1

    def end(self, *, is_killed: bool) -> None:
        """Closes what the kernel would close, and writes what had still been written."""
        self.serving.close()
        if not (is_killed and self.is_lost):
            for write in self._queued:
                self.host.disk.apply(write)

    def later(self, write: Callable[[Any], object]) -> None:
        """As Database.later."""
        self.effect()
        self._queued.append(write)

    # -- what happens to it ------------------------------------------------------------------------
    def adopt(self) -> None:
        """As Adoption: who lives is asked, and nobody else."""
        host = self.host
        for one in list(host.workers.values()):
            if one.is_alive:
                self.fleet.join(one)
        servers = host.servers()
        assert len(servers) <= 1
        for one in servers:
            served = one.served[NAME]
            fds = [os.dup(fd) for fd in served["fds"]]
            ring = RingHandle(served["ring"]["kind"], fds[:-1], served["ring"]["map_bytes"])
            if served["generation"] > self.serving.record.row.generation:
                self.serving.record.later(generation=served["generation"])
            self.serving.adopt(self.fleet.known[one.id], ring, fds[-1])
        if not servers and host.row.generation > 0:
            self.serving.orphaned("worker and supervisor died")
        self.serving.take_all()

    def ask(self, event: ServiceEvent) -> ObdError | None:
        """An operation asks; why it was refused, or None."""
        return self.serving.ask(event)

    def lose_worker(self) -> None:
        """The worker that serves is killed."""
        for one in self.host.servers():
            one.die()
            self.fleet.noticed(self.fleet.known[one.id])
            self.serving.worker_exited(self.fleet.known[one.id])
        self.serving.take_all()


class Mortal(Serving):
    """The real thing, without a thread: notes are taken by whoever calls."""

    def __init__(self, lifetime: Lifetime, context: ServingContext) -> None:
        self._lifetime = lifetime
        self.record = Record(lifetime, lifetime.host.row)  # type: ignore[arg-type]
        super().__init__(context, self.record, StubProvider(lifetime))

    def _run(self) -> None:
        return

    def take_all(self) -> None:
        """Everything in its inbox."""
        while not self._inbox.empty():
            note = self._inbox.get()
            if note is not None:
                self._take(note)

    def ask(self, event: ServiceEvent) -> ObdError | None:
        done: Future[None] | None = Future()
        if event is ServiceEvent.RETRY_DUE:
            if self.state is not ServiceState.WAITING:
                return None  # nothing is due
            done = None
        self._take(_Note(event, done=done))
        self.take_all()
        error = done.exception() if done is not None and done.done() else None
        return error if isinstance(error, ObdError) else None

    def _between(self, action: ServiceAction) -> ServiceEvent | None:
        """The supervisor may die before an action, and before it takes up what came of it."""
        self._lifetime.effect()
        following: ServiceEvent | None = Serving._DO[action](self)
        self._lifetime.effect()
        return following

    _DO = {action: (lambda self, action=action: self._between(action)) for action in ServiceAction}


class StubLink:
    """A worker's answers; the supervisor may die before a request and before its answer."""

    def __init__(self, lifetime: Lifetime, one: HostWorker) -> None:
        self._lifetime = lifetime
        self._one = one

    def call(
        self, op: str, timeout_s: float, fds: list[int] | None = None, **fields: object
    ) -> Packet:
        self._lifetime.effect()
        plan = self._one.plan
        if self._one.is_alive and plan.dies_in == op:
            self._one.die()
            self._lifetime.fleet.noticed(self._lifetime.fleet.known[self._one.id])
        if not self._one.is_alive:
            raise WorkerLost(f"worker {self._one.id} has gone", worker=self._one.id)
        if op in plan.refuses:
            raise plan.refuses.pop(op)
        sent = [os.dup(fd) for fd in fds or []]
        try:
            answer, out = self._one.answer({"op": op, **fields}, sent)
        finally:
            for fd in sent:  # those it did not keep
                os.close(fd)
        self._lifetime.effect()
        return Packet(answer, out)

    call_aside = call


class StubFleet:
    """Hands workers out; each that is asked for carries out the next plan."""

    def __init__(self, lifetime: Lifetime) -> None:
        self._lifetime = lifetime
        self.known: dict[str, Worker] = {}

    def join(self, one: HostWorker) -> Worker:
        identity = ProcessIdentity(int(one.id[1:]), 0)
        link = StubLink(self._lifetime, one)
        worker = self.known[one.id] = Worker(one.id, identity, -1, link)  # type: ignore[arg-type]
        worker.state = WorkerState.STANDBY
        return worker

    def noticed(self, worker: Worker) -> None:
        worker.death = judge_death(-9, is_oom=False)
        worker.has_exited.set()

    def acquire(self, device: str, timeout_s: float, **wishes: object) -> Worker:
        self._lifetime.effect()
        host = self._lifetime.host
        idle = [one for one in host.workers.values() if one.is_alive and not one.served]
        one = idle[0] if idle else host.spawn()
        plan = host.plans.popleft() if host.plans else Plan()
        one.plan = Plan(dict(plan.refuses), plan.dies_in)
        return self.known.get(one.id) or self.join(one)

    def arrived(self, worker: Worker, device: str) -> None:
        return

    def release(self, worker: Worker, device: str) -> None:
        self.fence(worker, "stopped: it served its last device")

    def discard(self, worker: Worker, device: str) -> None:
        self.fence(worker, "stopped")

    def give_back(self, worker: Worker, device: str) -> None:
        return

    def fence(self, worker: Worker, reason: str) -> bool:
        self._lifetime.effect()
        self._lifetime.host.workers[worker.id].die()
        self.noticed(worker)
        return True

    def workers(self) -> list[Worker]:
        return list(self.known.values())

    def replenish_soon(self) -> None:
        return

    def release_of(self, path: str) -> Release:
        return own_release()


class StubProvider:
    """A ring in memory; a reset of one that is served is a bug."""

    name = "stub"

    def __init__(self, lifetime: Lifetime) -> None:
        self._lifetime = lifetime

    def open_ring(self, ids: ProviderIds) -> RingHandle:
        self._lifetime.effect()
        fds = [os.memfd_create("ring"), os.eventfd(0), os.eventfd(0)]
        return RingHandle("memfd", fds, 4096)

    def resume_ring(self, ids: ProviderIds) -> None:
        return

    def reset_ring(self, ids: ProviderIds) -> None:
        host = self._lifetime.host
        assert not host.servers(), "reset under a server"
        self._lifetime.effect()
        if host.fails_reset:
            raise ProviderError("planted: no reset")
        host.resets += 1
        self._lifetime.effect()


class Silence:
    """Events that nobody hears."""

    def emit(self, name: str, device: str = "", **fields: object) -> None:
        return


@contextlib.contextmanager
def lifetime(host: Host, crash_at: int = -1, *, is_lost: bool = True) -> Iterator[Lifetime]:
    """One supervisor from its start to its end; a crash ends the block and is seen no further."""
    life = Lifetime(host, crash_at, is_lost=is_lost)
    is_killed = False
    try:
        yield life
    except Crash:
        is_killed = True
    finally:
        life.end(is_killed=is_killed)
