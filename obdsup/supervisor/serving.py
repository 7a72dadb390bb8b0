"""Who serves one device: the thread that carries out service_machine's actions.

Take-overs of different devices run in parallel, each in its device's thread; a slow image or a
blocked provider delays nobody else. What an action does is in ``takeover`` and ``handover``; the
fds are in ``ring_keeper``.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import random
import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

from obdsup.errors import ObdError, StateError, WorkerLost
from obdsup.supervisor.backoff import Backoff
from obdsup.supervisor.handover import HandOver
from obdsup.supervisor.journal_file import JournalFile
from obdsup.supervisor.provider.base import RingHandle, RingProvider
from obdsup.supervisor.quarantine import Quarantine
from obdsup.supervisor.record import Record
from obdsup.supervisor.release import Release
from obdsup.supervisor.ring_keeper import RingKeeper, ServingContext
from obdsup.supervisor.service_machine import (
    ILLEGAL,
    ServiceAction,
    ServiceEvent,
    ServiceState,
    step,
)
from obdsup.supervisor.takeover import Loss, TakeOver, is_journal_refusal
from obdsup.supervisor.worker import Worker

__all__ = ["Serving", "ServingContext"]

POISONED_KEPT = 16
SUSPECT_DEATHS = 2
SUSPECT_S = 60.0  # a device that served for so long without such a death is as good as others
_E, _A = ServiceEvent, ServiceAction
log = logging.getLogger(__name__)


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
        self._keeper = RingKeeper(context, record, provider)
        self.state = ServiceState.UNSERVED
        self.worker: Worker | None = None
        self.reason = ""
        self._inbox: queue.SimpleQueue[_Note | None] = queue.SimpleQueue()
        self._done: Future[None] | None = None
        self._error: ObdError | None = None
        self._deaths = Backoff()
        self._crash_wait_s = 0.0  # of the death just noticed
        self._refusals = Backoff(free_failures=0, first_s=0.2)
        self._retry_at_s: float | None = None
        self._quarantine = Quarantine(
            context.settings.quarantine_deaths, context.settings.quarantine_window_s
        )
        self._completed_at_attach = 0
        self._served_since_s = 0.0
        self.poisoned: deque[dict[str, Any]] = deque(maxlen=POISONED_KEPT)
        self._target: Release | None = None  # of the hand-over under way
        self._loss = Loss()
        self._suspect_until_s = 0.0
        self._thread = threading.Thread(target=self._run, name=f"serve-{record.name}", daemon=True)
        self._thread.start()

    @property
    def is_suspect(self) -> bool:
        """Its workers died lately of what they executed, or again and again: nobody is put with
        it."""
        return time.monotonic() < self._suspect_until_s

    @property
    def ring(self) -> RingHandle | None:
        """The ring's fds, while they are held."""
        return self._keeper.ring

    @property
    def journal(self) -> JournalFile:
        """The in-flight journal; readable without asking the worker."""
        return self._keeper.journal

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

    def resume(self) -> None:
        """Lifts the quarantine, or tries at once what waits; returns when a worker serves.

        Raises:
            ObdError: why none can; it is tried again later.
        """
        self._ask(_E.RESUME_ASKED)

    def adopt(self, worker: Worker, ring: RingHandle, journal_fd: int) -> None:
        """A living worker serves it: keeps the fds it gave back."""
        self._keeper.adopt(ring, journal_fd)
        self._completed_at_attach = self.journal.counters().completed
        if worker.release_path != self._record.row.release:
            self._record.later(release=worker.release_path)  # a move that was not written in time
        if self._record.row.quarantine:
            self._record.later(quarantine="")  # it was lifted, and that was not written in time
        self._inbox.put(_Note(_E.ADOPTED, worker))

    def orphaned(self, cause: str) -> None:
        """It was served and nobody does now: take over at once, unless it is in quarantine."""
        self._loss = Loss(time.monotonic(), cause)
        self.reason = self._record.row.quarantine
        self._inbox.put(_Note(_E.QUARANTINE_FOUND if self.reason else _E.ORPHANED))

    def worker_exited(self, worker: Worker) -> None:
        """Called by the fleet; ``worker`` is proven dead."""
        self._inbox.put(_Note(_E.WORKER_EXITED, worker))

    def close(self) -> None:
        """Ends the thread and closes the fds, after the device is gone."""
        self._inbox.put(None)
        self._thread.join()
        self._keeper.close()

    def let_go_of_ring(self) -> None:
        """Closes the ring's fds; only after ``drain``."""
        self._keeper.let_go_of_ring()

    def refusing(self) -> contextlib.AbstractContextManager[None]:
        """Commands are answered with errors meanwhile; only after ``drain``."""
        return self._keeper.refusing()

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
        death = self.worker.death
        self._loss = Loss(
            self.worker.exited_s,
            f"worker {death}" if death is not None else "worker exited",
            is_blamed=death is not None and death.is_blamed,
        )
        self.worker = None
        if self._loss.is_blamed:
            self._suspect_until_s = time.monotonic() + SUSPECT_S
        made_progress = self.journal.counters().completed > self._completed_at_attach
        now = time.monotonic()
        served_s = now - self._served_since_s
        if self._is_too_often(made_progress=made_progress, served_s=served_s):
            return _E.GAVE_UP
        is_fine = made_progress or served_s >= self._quarantine.steady_s
        wait_s = self._deaths.failed(now, random.random(), made_progress=is_fine)
        if not wait_s:
            return _E.WORKER_EXITED
        self._crash_wait_s = wait_s
        self._suspect_until_s = time.monotonic() + SUSPECT_S
        self._error = WorkerLost(
            f"workers of device {self._record.name} die again and again",
            hint="see their logs; the device is tried again with growing pauses",
        )
        return _E.CRASH_LOOPED

    def _is_too_often(self, *, made_progress: bool, served_s: float) -> bool:
        why = self._quarantine.died(
            time.monotonic(), made_progress=made_progress, served_s=served_s
        )
        if why:
            self._error = WorkerLost(
                f"device {self._record.name} is in quarantine: {why}",
                hint="see the workers' logs, then `obdsup device resume`",
            )
            self.reason = f"quarantined: {why}"
        return bool(why)

    # -- actions; each returns the event it ends with --------------------------------------------
    def _serve_fresh(self) -> ServiceEvent | None:
        return self._serve("fresh")

    def _recover(self) -> ServiceEvent | None:
        return self._serve("recover")

    def _serve(self, mode: str) -> ServiceEvent:
        attempt = TakeOver(self._context, self._record, self._keeper)
        try:
            worker = attempt.run(mode, self._loss)
        except ObdError as error:
            if attempt.is_blamed:
                self._loss = replace(self._loss, is_blamed=True)
                self._suspect_until_s = time.monotonic() + SUSPECT_S
            self._error = error
            is_recovering = self.state is ServiceState.RECOVERING
            if attempt.has_died and is_recovering:
                self._suspect_if_again()
                if self._is_too_often(made_progress=False, served_s=0.0):
                    return _E.GAVE_UP
            return _E.JOURNAL_REFUSED if is_recovering and is_journal_refusal(error) else _E.REFUSED
        self.poisoned.extend(attempt.poisoned)
        self._now_served_by(worker)
        return _E.SERVES

    def _suspect_if_again(self) -> None:
        """A first death taking over may be bad luck."""
        if self._quarantine.fruitless >= SUSPECT_DEATHS:
            self._suspect_until_s = time.monotonic() + SUSPECT_S

    def _now_served_by(self, worker: Worker) -> None:
        self.worker = worker
        self._context.fleet.arrived(worker, self._record.name)
        self.reason = ""
        self._loss = Loss()
        self._refusals.succeeded()
        self._completed_at_attach = self.journal.counters().completed
        self._served_since_s = time.monotonic()
        if worker.has_exited.is_set():  # before the fleet knew whom to tell: it told an old server
            self.worker_exited(worker)

    def _reset_ring(self) -> ServiceEvent:
        """The journal can not be trusted. Nobody serves: see service_machine."""
        cause = str(self._error)
        try:
            self._keeper.reset()
        except ObdError as error:
            self._error = error
            return _E.REFUSED
        self._context.events.emit(
            "ring.reset", self._record.name, level=logging.WARNING, reason=cause
        )
        return _E.RING_RESET

    def _schedule_retry(self) -> None:
        wait_s, self._crash_wait_s = self._crash_wait_s, 0.0
        if not wait_s:  # a death was counted when it was noticed
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

    def _leave_alone(self) -> None:
        """Nobody serves, and nothing is tried until ``resume``; a restart changes nothing."""
        self._record.later(quarantine=self.reason, reason=self.reason)
        self._context.events.emit(
            "device.quarantined", self._record.name, level=logging.ERROR, reason=self.reason
        )
        self._report_error()

    def _lift(self) -> None:
        self._quarantine.lift()
        self._deaths = Backoff()
        self._record.later(quarantine="", reason="")
        self._context.events.emit("device.resumed", self._record.name)
        self._loss = Loss(time.monotonic(), "resumed", is_blamed=self._loss.is_blamed)

    def _hand_over(self) -> ServiceEvent:
        old = self.worker
        assert old is not None
        end = HandOver(self._context, self._record, self._keeper, old).run(self._target)
        self._error = end.error
        if end.worker is None:
            self.worker = None
            self._loss = Loss(time.monotonic(), "hand-over failed")
            return _E.HANDOVER_LOST
        self._now_served_by(end.worker)
        return _E.FELL_BACK if end.error else _E.HANDED_OVER

    def _drain(self) -> ServiceEvent:
        assert self.worker is not None
        try:
            self._keeper.take_back(self.worker, is_last=True)
        except ObdError as error:
            self._error = error
            return _E.DRAIN_FAILED
        self._context.fleet.release(self.worker, self._record.name)
        self.worker = None
        return _E.DRAINED

    def _report_served(self) -> None:
        done, self._done = self._done, None
        if done is not None:
            done.set_result(None)

    def _report_error(self) -> None:
        done, self._done = self._done, None
        if done is not None:
            error = self._error or WorkerLost(
                f"device {self._record.name}: nobody serves it", hint=self.reason
            )
            done.set_exception(error)

    _DO = {
        _A.SERVE_FRESH: _serve_fresh,
        _A.RECOVER: _recover,
        _A.RESET_RING: _reset_ring,
        _A.SCHEDULE_RETRY: _schedule_retry,
        _A.QUARANTINE: _leave_alone,
        _A.LIFT: _lift,
        _A.HAND_OVER: _hand_over,
        _A.DRAIN: _drain,
        _A.REPORT_SERVED: _report_served,
        _A.REPORT_ERROR: _report_error,
    }
