"""Giving a device that nobody serves to a worker: when it is made, and whenever its worker died."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

from obdsup.errors import AlreadyServed, ObdError, StateError, WorkerLost
from obdsup.state.device import Takeover
from obdsup.supervisor.record import Record
from obdsup.supervisor.ring_keeper import DYING_S, RingKeeper, ServingContext
from obdsup.supervisor.worker import Worker

__all__ = ["Loss", "TakeOver", "is_journal_refusal"]


@dataclass(frozen=True, slots=True)
class Loss:
    """Why nobody serves. ``at_s`` is monotonic, 0 when nobody ever did."""

    at_s: float = 0.0
    cause: str = ""
    is_blamed: bool = False  # what was executing may have caused it


class TakeOver:
    """One attempt of one device; all is done in its thread."""

    def __init__(self, context: ServingContext, record: Record, keeper: RingKeeper) -> None:
        self._context = context
        self._record = record
        self._keeper = keeper
        self.has_died = False  # the worker that was asked
        self.is_blamed = False  # it died of something else than a kill
        self.poisoned: list[dict[str, Any]] = []  # commands answered with a medium error

    def run(self, mode: str, loss: Loss) -> Worker:
        """Finds a worker and has it serve; mode is fresh or recover. A first service (``loss`` has
        no cause) is not reported as a take-over.

        Raises:
            ObdError: nobody serves: neither the worker that was asked nor another.
        """
        self._keeper.open()
        worker = self._acquire(is_urgent=bool(loss.cause))
        sent_s = time.monotonic()
        try:
            self._open_image(worker)
            answer = self._keeper.give(worker, mode, is_blamed=loss.is_blamed)
        except ObdError as error:
            self._let_go(worker, error)
            raise
        finally:
            self._context.fleet.replenish_soon()
        self._note_poisoned(answer)
        if loss.cause:
            self._note(answer, mode, loss, (time.monotonic() - sent_s) * 1000)
        return worker

    def _acquire(self, *, is_urgent: bool) -> Worker:
        """A standby of the release it is pinned to, or soon of our own: I/O waits."""
        settings, fleet = self._context.settings, self._context.fleet
        name, pinned = self._record.name, self._record.row.release
        if not pinned:
            return fleet.acquire(name, settings.start_timeout_s, is_urgent=is_urgent)
        try:
            return fleet.acquire(name, settings.pinned_patience_s, is_urgent=is_urgent)
        except WorkerLost as error:
            self._context.events.emit(
                "takeover.other_release", name, level=logging.WARNING, release=pinned,
                reason=str(error),
            )  # fmt: skip
        own = fleet.release_of("")
        return fleet.acquire(name, settings.start_timeout_s, release=own, is_urgent=is_urgent)

    def _open_image(self, worker: Worker) -> None:
        """Before ``give``: a serve that does not answer ends with the death of the worker, which
        may serve others; one that only opens an image is known not to serve it.

        Raises:
            ConfigError, FormatError, StateError: it can not be opened there.
        """
        if self._record.name in worker.images:
            return
        try:
            worker.link.call_aside(
                "prewarm", self._context.settings.serve_timeout_s, device=self._record.name,
                image=self._record.row.image_message(),
            )  # fmt: skip
        except WorkerLost as error:
            if worker.has_exited.wait(DYING_S):
                raise
            raise StateError(f"device {self._record.name}: its image: {error}") from error
        worker.images.add(self._record.name)

    def _let_go(self, worker: Worker, error: ObdError) -> None:
        """Makes sure that nobody serves before anything else is tried."""
        if isinstance(error, WorkerLost):
            self._keeper.prove_dead(worker, str(error))
            self.has_died = True
            self.is_blamed = worker.death is not None and worker.death.is_blamed
            return
        self._context.fleet.give_back(worker, self._record.name)
        if isinstance(error, AlreadyServed):
            self._keeper.fence_owner()

    def _note_poisoned(self, answer: dict[str, Any]) -> None:
        found = answer.get("poisoned")
        self.poisoned = [one for one in found or [] if isinstance(one, dict)]
        for one in self.poisoned:
            self._context.events.emit(
                "command.poisoned", self._record.name, level=logging.ERROR, cdb=one.get("cdb"),
                lba=one.get("lba"), sectors=one.get("sectors"), deaths=one.get("deaths"),
            )  # fmt: skip

    def _note(self, answer: dict[str, Any], mode: str, loss: Loss, serve_ms: float) -> None:
        row = self._record.row
        now = time.monotonic()
        duration_ms = round((now - (loss.at_s or now)) * 1000, 3)
        recovered = int(answer.get("recovered", 0))
        self._record.later(
            takeovers=row.takeovers + 1,
            last_takeover=Takeover(time.time(), duration_ms, recovered, loss.cause),
            reason="",
        )
        self._context.events.emit(
            "takeover.done", row.name, gen=row.generation, mode=mode, dur_ms=duration_ms,
            serve_ms=round(serve_ms, 3), attach_ms=int(answer.get("attach_ns", 0)) / 1e6,
            recovered=recovered, already_done=answer.get("already_done", 0),
            dropped=answer.get("dropped", 0), worker=row.worker_id, reason=loss.cause,
        )  # fmt: skip


def is_journal_refusal(error: ObdError) -> bool:
    """A worker that held the journal's lock could not trust the journal."""
    return isinstance(error, StateError) and error.fields.get("code") == "OBD_E_JOURNAL"
