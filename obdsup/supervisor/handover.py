"""A planned change of server: to a warm standby, or back to the old worker.

A standby of a release that does not know the journal's layout gets the device drained: nothing is
in flight then, so a new journal says as much as the old one did.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from obdsup.errors import HandoffError, ObdError, WorkerLost
from obdsup.supervisor.record import Record
from obdsup.supervisor.release import Release
from obdsup.supervisor.ring_keeper import RingKeeper, ServingContext
from obdsup.supervisor.worker import Worker

__all__ = ["HandOver", "HandOverEnd"]


@dataclass(frozen=True, slots=True)
class HandOverEnd:
    """Who serves now (None: nobody), and why it did not move (None: it did)."""

    worker: Worker | None
    error: HandoffError | None


class HandOver:
    """One hand-over of one device; ``run`` is called by its thread."""

    def __init__(
        self, context: ServingContext, record: Record, keeper: RingKeeper, old: Worker
    ) -> None:
        self._context = context
        self._record = record
        self._keeper = keeper
        self._old = old
        self._pinned_before = record.row.release
        self._is_readable = True  # the journal, by the worker that is to take it

    def run(self, release: Release | None) -> HandOverEnd:
        """Prepares a standby of ``release``, then moves; whatever fails, nobody serves twice."""
        fleet, settings = self._context.fleet, self._context.settings
        started_s = time.monotonic()
        name, image = self._record.name, self._record.row.image_message()
        try:
            standby = fleet.acquire(name, settings.start_timeout_s, is_warm=True, release=release)
        except ObdError as error:
            return self._failed(f"no standby: {error}")
        try:
            standby.link.call_aside("prewarm", settings.serve_timeout_s, device=name, image=image)
            self._is_readable = self._can_read(standby)
            self._pin(standby.release_path)
            stopped_s = time.monotonic()
            self._keeper.take_back(self._old, is_last=not self._is_readable)
            drained_s = time.monotonic()
        except ObdError as error:
            self._pin(self._pinned_before)
            fleet.discard(standby, name)
            return self._failed(str(error))
        try:
            self._give(standby, self._old)
        except ObdError as error:
            self._keeper.make_sure_it_let_go(standby, error)
            self._pin(self._pinned_before)
            return self._fall_back(standby, error)
        fleet.release(self._old, name)
        now = time.monotonic()
        self._context.events.emit(
            "handoff.done", name, gen=self._record.row.generation, worker=standby.id,
            dur_ms=round((now - started_s) * 1000, 3), stall_ms=round((now - stopped_s) * 1000, 3),
            drain_ms=round((drained_s - stopped_s) * 1000, 3),
        )  # fmt: skip
        return HandOverEnd(standby, None)

    def _pin(self, release_path: str) -> None:
        if self._record.row.release != release_path:
            self._record.later(release=release_path)

    def _can_read(self, standby: Worker) -> bool:
        """Whether it knows the journal's layout; the event names the two when it does not.

        Raises:
            ConfigError: its release is gone.
        """
        version = self._keeper.journal.layout_version()
        release = self._context.fleet.release_of(standby.release_path)
        if release.reads_journal(version):
            return True
        self._context.events.emit(
            "handoff.drained", self._record.name, level=logging.WARNING, journal=version,
            reads=release.journal_version, release=release.version,
        )  # fmt: skip
        return False

    def _give(self, worker: Worker, before: Worker) -> None:
        """Has ``worker`` serve, which ``before`` does not any more.

        Raises:
            ObdError: it does not; see RingKeeper.give.
        """
        if self._is_readable:
            self._keeper.give(worker, "recover")
            return
        if before.has_exited.is_set():  # not drained after all: the kernel sends it all again
            self._keeper.reset()
        self._keeper.give(worker, "fresh")

    def _fall_back(self, standby: Worker, cause: ObdError) -> HandOverEnd:
        """Nobody serves: the old worker again, under yet another generation."""
        try:
            if self._old.has_exited.is_set():
                raise WorkerLost(f"worker {self._old.id} has exited", worker=self._old.id)
            self._give(self._old, standby)
        except ObdError as error:
            self._keeper.make_sure_it_let_go(self._old, error)
            end = self._failed(f"{cause}; and the old worker: {error}")
            return HandOverEnd(None, end.error)
        return self._failed(str(cause))

    def _failed(self, reason: str) -> HandOverEnd:
        name = self._record.name
        self._context.events.emit("handoff.failed", name, level=logging.WARNING, reason=reason)
        error = HandoffError(
            f"device {name} was not handed over: {reason}", hint="it is served as before"
        )
        return HandOverEnd(self._old, error)
