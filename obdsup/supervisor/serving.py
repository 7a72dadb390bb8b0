"""Who serves one device: the thread that carries out service_machine's actions.

Take-overs of different devices run in parallel, each in its device's thread; a slow image or a
blocked provider delays nobody else. The ring's fds and the journal's are held here.
"""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from obdsup.errors import AlreadyServed, HandoffError, ObdError, StateError, WorkerLost
from obdsup.state.device import Takeover
from obdsup.supervisor.backoff import Backoff
from obdsup.supervisor.event_log import EventLog
from obdsup.supervisor.fleet import Fleet
from obdsup.supervisor.journal_file import JournalFile
from obdsup.supervisor.provider.base import RingHandle, RingProvider
from obdsup.supervisor.record import Record
from obdsup.supervisor.release import Release
from obdsup.supervisor.service_machine import (
    ILLEGAL,
    ServiceAction,
    ServiceEvent,
    ServiceState,
    step,
)
from obdsup.supervisor.settings import Settings
from obdsup.supervisor.worker import Worker

__all__ = ["Serving", "ServingContext"]

_E, _A = ServiceEvent, ServiceAction
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServingContext:
    """What all devices share."""

    settings: Settings
    events: EventLog
    fleet: Fleet
    boot_id: str


@dataclass(slots=True)
class _Note:
    """One entry of the inbox."""

    event: ServiceEvent
    worker: Worker | None = None
    done: Future[None] | None = None
    release: Release | None = None


class Serving:
    """The service of one device. ``close`` ends the thread, never the service."""

    def __init__(self, context: ServingContext, record: Record, provider: RingProvider) -> None:
        self._context = context
        self._record = record
        self._provider = provider
        self.state = ServiceState.UNSERVED
        self.worker: Worker | None = None
        self.ring: RingHandle | None = None
        self.journal = JournalFile(context.settings.journal_path(record.name))
        self.reason = ""
        self._inbox: queue.SimpleQueue[_Note | None] = queue.SimpleQueue()
        self._done: Future[None] | None = None
        self._error: ObdError | None = None
        self._deaths = Backoff()
        self._refusals = Backoff(free_failures=0, first_s=0.2)
        self._retry_at_s: float | None = None
        self._completed_at_attach = 0
        self._target: Release | None = None  # of the hand-over under way
        self._is_blamed = False  # what was executing at the last death may have caused it
        self._lost_at_s = 0.0
        self._cause = ""
        self._thread = threading.Thread(target=self._run, name=f"serve-{record.name}", daemon=True)
        self._thread.start()

    # -- asked by operations, in their threads --------------------------------------------------
    def attach(self) -> None:
        """Has a worker serve it; returns when one does.

        Raises:
            ObdError: why none can.
        """
        self._ask(_E.ATTACH_ASKED)

    def drain(self) -> None:
        """Nobody serves it any more when this returns.

        Raises:
            ObdError: it goes on being served.
        """
        self._ask(_E.DRAIN_ASKED)

    def hand_over(self, release: Release | None = None) -> None:
        """Moves it to a warm standby of ``release``, or of the one it is pinned to.

        The pin is written behind before the old worker is drained. That is enough: a supervisor
        that finds another pin than the release of the worker that serves keeps the latter.

        Raises:
            HandoffError: it did not happen, and why; served as before.
        """
        self._ask(_E.HANDOVER_ASKED, release)

    def adopt(self, worker: Worker, ring: RingHandle, journal_fd: int) -> None:
        """A living worker serves it: keeps the fds it gave back."""
        self.ring = ring
        self.journal.take(journal_fd)
        self._completed_at_attach = self.journal.counters().completed
        if worker.release_path != self._record.row.release:
            self._record.later(release=worker.release_path)  # a move that was not written in time
        self._inbox.put(_Note(_E.ADOPTED, worker))

    def orphaned(self, cause: str) -> None:
        """It was served and nobody does now: take over at once."""
        self._cause, self._lost_at_s = cause, time.monotonic()
        self._inbox.put(_Note(_E.ORPHANED))

    def worker_exited(self, worker: Worker) -> None:
        """Called by the fleet; ``worker`` is proven dead."""
        self._inbox.put(_Note(_E.WORKER_EXITED, worker))

    def close(self) -> None:
        """Ends the thread and closes the fds, after the device is gone."""
        self._inbox.put(None)
        self._thread.join()
        if self.ring is not None:
            self.ring.close()
        self.journal.close()

    def let_go_of_ring(self) -> None:
        """Closes the ring's fds; only after ``drain``."""
        if self.ring is not None:
            self.ring.close()

    def _ask(self, event: ServiceEvent, release: Release | None = None) -> None:
        done: Future[None] = Future()
        self._inbox.put(_Note(event, done=done, release=release))
        done.result()

    # -- the thread ------------------------------------------------------------------------------
    def _run(self) -> None:
        while True:
            note = self._next_note()
            if note is None:
                return
            try:
                self._take(note)
            except Exception:
                # A bug: this device stays as it is (its worker serves on), the others go on.
                log.exception("service of %s failed", self._record.name)

    def _next_note(self) -> _Note | None:
        if self._retry_at_s is None:
            return self._inbox.get()
        try:
            return self._inbox.get(timeout=max(self._retry_at_s - time.monotonic(), 0))
        except queue.Empty:
            return _Note(_E.RETRY_DUE)

    def _take(self, note: _Note) -> None:
        event = note.event
        if event is _E.WORKER_EXITED:
            if note.worker is not self.worker or self.state is not ServiceState.SERVED:
                return  # an earlier server
            event = self._count_death()
        elif event is _E.ADOPTED:
            self.worker = note.worker
        elif note.done is not None and (self.state, event) in ILLEGAL:
            note.done.set_exception(
                StateError(f"device {self._record.name} is {self.state.value}: not now")
            )
            return
        self._retry_at_s = None
        self._done, self._target = note.done, note.release
        following: ServiceEvent | None = event
        while following is not None:
            self.state, actions = step(self.state, following, time.monotonic())
            following = None
            for action in actions:
                following = self._DO[action](self)

    def _count_death(self) -> ServiceEvent:
        assert self.worker is not None
        self._lost_at_s = self.worker.exited_s
        death = self.worker.death
        self._cause = f"worker {death}" if death is not None else "worker exited"
        self._is_blamed = death is not None and death.is_blamed
        self.worker = None
        completed = self.journal.counters().completed
        wait_s = self._deaths.failed(
            time.monotonic(),
            random.random(),
            made_progress=completed > self._completed_at_attach,
        )
        if not wait_s:
            return _E.WORKER_EXITED
        self._error = WorkerLost(
            f"workers of device {self._record.name} die again and again",
            hint="see their logs; the device is tried again with growing pauses",
        )
        return _E.CRASH_LOOPED

    # -- actions; each returns the event it ends with --------------------------------------------
    def _serve_fresh(self) -> ServiceEvent | None:
        return self._serve("fresh")

    def _recover(self) -> ServiceEvent | None:
        return self._serve("recover")

    def _serve(self, mode: str) -> ServiceEvent:
        try:
            self._open_ring()
            worker = self._acquire()
        except ObdError as error:
            return self._refused(error)
        sent_s = time.monotonic()
        try:
            answer = self._send_serve(worker, mode, self._new_generation())
        except ObdError as error:
            return self._serve_failed(worker, error)
        finally:
            self._context.fleet.replenish_soon()
        self._now_served_by(worker)
        self._note_takeover(answer, mode, (time.monotonic() - sent_s) * 1000)
        return _E.SERVES

    def _acquire(self) -> Worker:
        """A standby of the release it is pinned to, or soon of our own: I/O waits."""
        settings, fleet = self._context.settings, self._context.fleet
        name, pinned = self._record.name, self._record.row.release
        if not pinned:
            return fleet.acquire(name, settings.start_timeout_s)
        try:
            return fleet.acquire(name, settings.pinned_patience_s)
        except WorkerLost as error:
            self._context.events.emit(
                "takeover.other_release", name, level=logging.WARNING, release=pinned,
                reason=str(error),
            )  # fmt: skip
        return fleet.acquire(name, settings.start_timeout_s, release=fleet.release_of(""))

    def _send_serve(self, worker: Worker, mode: str, generation: int) -> dict[str, Any]:
        assert self.ring is not None
        row = self._record.row
        self._record.later(generation=generation, worker_id=worker.id)
        return worker.link.call(
            "serve",
            self._context.settings.serve_timeout_s,
            [*self.ring.fds, self.journal.fd],
            device=row.name,
            uuid=row.uuid,
            image=row.image_message(),
            generation=generation,
            mode=mode,
            boot_id=self._context.boot_id,
            ring={"kind": self.ring.kind, "map_bytes": self.ring.map_bytes},
        ).body

    def _serve_failed(self, worker: Worker, error: ObdError) -> ServiceEvent:
        """Makes sure that nobody serves before anything else is tried."""
        fleet = self._context.fleet
        if isinstance(error, WorkerLost):
            self._make_sure_it_is_dead(worker, str(error))
        elif isinstance(error, AlreadyServed):
            fleet.give_back(worker)
            self._fence_owner()
        else:
            fleet.give_back(worker)
        is_journal = isinstance(error, StateError) and error.fields.get("code") == "OBD_E_JOURNAL"
        if is_journal and self.state is ServiceState.RECOVERING:
            self._error = error
            return _E.JOURNAL_REFUSED
        return self._refused(error)

    def _refused(self, error: ObdError) -> ServiceEvent:
        self._error = error
        return _E.REFUSED

    def _make_sure_it_is_dead(self, worker: Worker, reason: str) -> None:
        """A worker that broke the connection is usually dying; one that hangs is killed."""
        if not worker.has_exited.wait(0.2):
            self._context.fleet.fence(worker, reason)
        if worker.has_exited.wait(1.0) and worker.death is not None and worker.death.is_blamed:
            self._is_blamed = True

    def _fence_owner(self) -> None:
        """The journal's lock is held by a process we do not count on: kill it by its identity."""
        pid = self.journal.counters().owner_pid
        for worker in self._context.fleet.workers():
            if worker.identity.pid == pid:
                self._context.fleet.fence(worker, f"holds the ring of {self._record.name}")

    def _open_ring(self) -> None:
        if self.ring is None or self.ring.is_closed:
            self.ring = self._provider.open_ring(self._record.row.provider_ids)

    def _new_generation(self) -> int:
        return max(self._record.row.generation, self.journal.generation()) + 1

    def _now_served_by(self, worker: Worker) -> None:
        self.worker = worker
        self.reason = ""
        self._is_blamed = False
        self._refusals.succeeded()
        self._completed_at_attach = self.journal.counters().completed
        if worker.has_exited.is_set():  # before the fleet knew whom to tell: it told an old server
            self.worker_exited(worker)

    def _note_takeover(self, answer: dict[str, Any], mode: str, serve_ms: float) -> None:
        row = self._record.row
        if self.state is ServiceState.ATTACHING:
            return
        now = time.monotonic()
        duration_ms = (now - (self._lost_at_s or now)) * 1000
        recovered = int(answer.get("recovered", 0))
        self._record.later(
            takeovers=row.takeovers + 1,
            last_takeover=Takeover(time.time(), round(duration_ms, 3), recovered, self._cause),
            reason="",
        )
        self._context.events.emit(
            "takeover.done", row.name, gen=row.generation, mode=mode, dur_ms=round(duration_ms, 3),
            serve_ms=round(serve_ms, 3), attach_ms=int(answer.get("attach_ns", 0)) / 1e6,
            recovered=recovered, already_done=answer.get("already_done", 0),
            dropped=answer.get("dropped", 0), worker=row.worker_id, reason=self._cause,
        )  # fmt: skip
        self._lost_at_s = 0.0

    def _reset_ring(self) -> ServiceEvent:
        """The journal can not be trusted. Nobody serves: see service_machine."""
        try:
            self._provider.reset_ring(self._record.row.provider_ids)
        except ObdError as error:
            return self._refused(error)
        self.journal.start_over()
        self._context.events.emit(
            "ring.reset", self._record.name, level=logging.WARNING, reason=str(self._error)
        )
        return _E.RING_RESET

    def _schedule_retry(self) -> None:
        counter = self._deaths if isinstance(self._error, WorkerLost) else self._refusals
        wait_s = counter.failed(time.monotonic(), random.random())
        self._retry_at_s = time.monotonic() + wait_s
        self.reason = str(self._error)
        self._record.later(reason=self.reason)
        name, level = ("device.blocked", logging.ERROR) if wait_s else ("takeover.retried", 30)
        self._context.events.emit(
            name, self._record.name, level=level, reason=self.reason, retry_s=wait_s
        )
        self._report_error()

    def _hand_over(self) -> ServiceEvent:
        old, fleet, settings = self.worker, self._context.fleet, self._context.settings
        assert old is not None
        started_s = time.monotonic()
        name, image = self._record.name, self._record.row.image_message()
        try:
            standby = fleet.acquire(
                name, settings.start_timeout_s, is_warm=True, release=self._target
            )
        except ObdError as error:
            return self._handoff_failed(f"no standby: {error}")
        pinned_before = self._record.row.release
        try:
            standby.link.call_aside("prewarm", settings.serve_timeout_s, device=name, image=image)
            self._pin(standby.release_path)
            stopped_s = time.monotonic()
            self._drain_worker(old)
            drained_s = time.monotonic()
        except ObdError as error:
            self._pin(pinned_before)
            fleet.discard(standby)
            return self._handoff_failed(str(error))
        try:
            self._send_serve(standby, "recover", self._new_generation())
        except ObdError as error:
            self._make_sure_it_let_go(standby, error)
            self._pin(pinned_before)
            return self._fall_back(old, error)
        self._now_served_by(standby)
        fleet.release(old)
        now = time.monotonic()
        self._context.events.emit(
            "handoff.done", name, gen=self._record.row.generation, worker=standby.id,
            dur_ms=round((now - started_s) * 1000, 3), stall_ms=round((now - stopped_s) * 1000, 3),
            drain_ms=round((drained_s - stopped_s) * 1000, 3),
        )  # fmt: skip
        return _E.HANDED_OVER

    def _pin(self, release_path: str) -> None:
        if self._record.row.release != release_path:
            self._record.later(release=release_path)

    def _drain_worker(self, worker: Worker, *, is_last: bool = False) -> None:
        """Returns when the worker has let go, or is proven dead.

        Args:
            is_last: nobody takes it over: the worker syncs and completes the upper's files.

        Raises:
            ObdError: it goes on serving.
        """
        timeout_s = self._context.settings.drain_timeout_s
        try:
            worker.link.call(
                "drain", timeout_s + 2, device=self._record.name,
                timeout_ms=int(timeout_s * 1000), is_last=is_last,
            )  # fmt: skip
        except WorkerLost as error:
            self._make_sure_it_is_dead(worker, str(error))

    def _make_sure_it_let_go(self, worker: Worker, error: ObdError) -> None:
        if isinstance(error, WorkerLost):
            self._make_sure_it_is_dead(worker, str(error))
        else:
            self._context.fleet.discard(worker)

    def _fall_back(self, old: Worker, cause: ObdError) -> ServiceEvent:
        """Nobody serves: the old worker again, under yet another generation."""
        try:
            if old.has_exited.is_set():
                raise WorkerLost(f"worker {old.id} has exited", worker=old.id)
            self._send_serve(old, "recover", self._new_generation())
        except ObdError as error:
            self._make_sure_it_let_go(old, error)
            self.worker = None
            self._lost_at_s, self._cause = time.monotonic(), "hand-over failed"
            self._handoff_failed(f"{cause}; and the old worker: {error}")
            return _E.HANDOVER_LOST
        self._now_served_by(old)
        return self._handoff_failed(str(cause))

    def _handoff_failed(self, reason: str) -> ServiceEvent:
        name = self._record.name
        self._error = HandoffError(
            f"device {name} was not handed over: {reason}", hint="it is served as before"
        )
        self._context.events.emit("handoff.failed", name, level=logging.WARNING, reason=reason)
        if self.worker is not None and self.worker.has_exited.is_set():
            self.worker_exited(self.worker)  # its note came while we were busy
        return _E.FELL_BACK

    def _drain(self) -> ServiceEvent:
        assert self.worker is not None
        try:
            self._drain_worker(self.worker, is_last=True)
        except ObdError as error:
            self._error = error
            return _E.DRAIN_FAILED
        self._context.fleet.release(self.worker)
        self.worker = None
        return _E.DRAINED

    def _report_served(self) -> None:
        done, self._done = self._done, None
        if done is not None:
            done.set_result(None)

    def _report_error(self) -> None:
        done, self._done = self._done, None
        if done is not None:
            error = self._error or WorkerLost(f"device {self._record.name}: nobody serves it")
            done.set_exception(error)

    _DO = {
        _A.SERVE_FRESH: _serve_fresh,
        _A.RECOVER: _recover,
        _A.RESET_RING: _reset_ring,
        _A.SCHEDULE_RETRY: _schedule_retry,
        _A.HAND_OVER: _hand_over,
        _A.DRAIN: _drain,
        _A.REPORT_SERVED: _report_served,
        _A.REPORT_ERROR: _report_error,
    }
