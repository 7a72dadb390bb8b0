"""The ring and the journal of one device: held here, given to a worker, taken back.

All methods block and are called by the device's thread. Whoever calls ``give`` knows that nobody
serves; ``take_back`` and ``prove_dead`` are how it gets to know.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from obdsup.errors import ObdError, WorkerLost
from obdsup.state.device_spec import spec_of
from obdsup.supervisor.event_log import EventLog
from obdsup.supervisor.fleet import Fleet
from obdsup.supervisor.held_fds import HeldFds
from obdsup.supervisor.journal_file import JournalFile
from obdsup.supervisor.provider.base import RingHandle, RingProvider
from obdsup.supervisor.record import Record
from obdsup.supervisor.refuser import Refuser
from obdsup.supervisor.settings import Settings
from obdsup.supervisor.worker import Worker

__all__ = ["DYING_S", "RingKeeper", "ServingContext"]

DYING_S = 0.2  # a worker that broke the connection is usually dying
NOTICED_S = 1.0  # from a proven death until the loop has noticed it


@dataclass(frozen=True, slots=True)
class ServingContext:
    """What all devices share."""

    settings: Settings
    events: EventLog
    fleet: Fleet
    boot_id: str
    held: HeldFds = field(default_factory=lambda: HeldFds({}))


class RingKeeper:
    """Owns the ring's fds and the journal's; ``held`` keeps them for a successor."""

    def __init__(self, context: ServingContext, record: Record, provider: RingProvider) -> None:
        self._context = context
        self._record = record
        self._provider = provider
        self.ring: RingHandle | None = None
        self.journal = JournalFile(context.settings.journal_path(record.name))
        self._is_inherited = False  # the ring's fds came from an earlier supervisor, not yet used
        self._inherit()

    def _inherit(self) -> None:
        """Fds kept of a device that was served: a ring that is open can not be opened again, and
        the journal's lock is on the inode that was served, whatever has its name now."""
        held = self._context.held.take_device(self._record.name)
        if held is None:
            return
        if self._record.row.generation == 0:  # of another device that had this name
            held.close()
            return
        self.ring = RingHandle(held.kind, held.ring_fds, held.map_bytes)
        self.journal.take(held.journal_fd)
        self._is_inherited = True
        self._keep()

    def _keep(self) -> None:
        assert self.ring is not None
        self._context.held.store_device(
            self._record.name, self.ring.fds, self.ring.kind, self.ring.map_bytes, self.journal.fd
        )

    def open(self) -> None:
        """Has the ring's fds.

        Raises:
            ObdError: the provider can not open it.
        """
        if self._is_inherited:
            self._provider.resume_ring(self._record.row.provider_ids)
        elif self.ring is None or self.ring.is_closed:
            self.ring = self._provider.open_ring(self._record.row.provider_ids)
            self._keep()

    def adopt(self, ring: RingHandle, journal_fd: int) -> None:
        """Keeps the fds a living worker gave back."""
        if self.ring is not None:
            self.ring.close()
        self.ring, self._is_inherited = ring, False
        self.journal.take(journal_fd)
        self._keep()

    def let_go_of_ring(self) -> None:
        """Closes the ring's fds; only when nobody serves any more."""
        self._context.held.forget_device(self._record.name)
        self._is_inherited = False
        if self.ring is not None:
            self.ring.close()

    def close(self) -> None:
        """Closes all fds, after the device is gone."""
        self.let_go_of_ring()
        self.journal.close()

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        """Commands are answered with errors meanwhile; only when nobody serves and nobody will.
        Ring and journal are started over first.

        Raises:
            ObdError: the ring can not be opened or reset, or somebody does serve.
        """
        self.open()
        assert self.ring is not None
        self._provider.reset_ring(self._record.row.provider_ids)
        os.ftruncate(self.journal.fd, 0)  # of the ring before: never to be recovered from
        with Refuser(self.ring, self.journal.path):
            yield

    def reset(self) -> None:
        """Starts ring and journal over: the journal can not be trusted, and nobody serves.

        Raises:
            ObdError: the provider can not; nothing has changed.
        """
        self._provider.reset_ring(self._record.row.provider_ids)
        self.journal.start_over()

    def give(self, worker: Worker, mode: str, *, is_blamed: bool = False) -> dict[str, Any]:
        """Has a worker serve the ring under a new generation; returns its answer.

        Args:
            worker: who gets it.
            mode: fresh or recover.
            is_blamed: the last worker may have died of what it executed, which is counted.

        Raises:
            WorkerLost: whether it serves is not known: see ``prove_dead``.
            ObdError: it does not.
        """
        assert self.ring is not None
        generation = max(self._record.row.generation, self.journal.generation()) + 1
        self._record.later(generation=generation, worker_id=worker.id)
        row = self._record.row
        try:
            answer = worker.link.call(
                "serve",
                self._context.settings.serve_timeout_s,
                [*self.ring.fds, self.journal.fd],
                device=row.name,
                uuid=row.uuid,
                image=row.image_message(),
                generation=generation,
                mode=mode,
                boot_id=self._context.boot_id,
                spec=spec_of(row),
                ring={"kind": self.ring.kind, "map_bytes": self.ring.map_bytes},
                options={
                    "blamed": is_blamed,
                    "poison_after": self._context.settings.poison_after,
                },
            ).body
        except WorkerLost:
            raise
        except ObdError:
            if self._is_inherited:  # perhaps of a ring that is gone: the next attempt opens it
                self.let_go_of_ring()
            raise
        self._is_inherited = False
        return answer

    def take_back(self, worker: Worker, *, is_last: bool = False) -> None:
        """Returns when the worker has let go, or is proven dead.

        Args:
            worker: who serves.
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
            self.prove_dead(worker, str(error))

    def prove_dead(self, worker: Worker, reason: str) -> None:
        """Returns when a worker that may serve or not is dead; one that hangs is killed."""
        if not worker.has_exited.wait(DYING_S):
            self._context.fleet.fence(worker, reason)
        worker.has_exited.wait(NOTICED_S)

    def make_sure_it_let_go(self, worker: Worker, error: ObdError) -> None:
        """After ``give`` raised: nobody serves when this returns, and the worker is not used."""
        if isinstance(error, WorkerLost):
            self.prove_dead(worker, str(error))
        else:
            self._context.fleet.discard(worker, self._record.name)

    def fence_owner(self) -> None:
        """The journal's lock is held by a process we do not count on: kill it by its identity."""
        pid = self.journal.counters().owner_pid
        for worker in self._context.fleet.workers():
            if worker.identity.pid == pid:
                self._context.fleet.fence(worker, f"holds the ring of {self._record.name}")
