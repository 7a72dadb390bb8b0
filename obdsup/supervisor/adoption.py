"""What a new supervisor finds: living workers are adopted, the rest is taken over, in parallel.

Who serves is not read from state.db: living workers are asked. A worker that lives but does not
answer is killed, and proven dead, before its device is given to another. So is one that still
carries out an order of the dead supervisor: where that ends, nobody would be told. One that speaks
another control protocol is told to end by SIGTERM, for which it drains what it serves.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Collection, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from obdsup.errors import ObdError, WorkerLost
from obdsup.state import process as processes
from obdsup.state import tables
from obdsup.state.database import Database
from obdsup.state.device import WorkerRow
from obdsup.state.messages import UNKNOWN_VERSION, Packet
from obdsup.state.process import ProcessIdentity
from obdsup.supervisor.device import Device
from obdsup.supervisor.device_machine import DeviceState
from obdsup.supervisor.devices import Devices
from obdsup.supervisor.embedding import EmbeddedSupervisor
from obdsup.supervisor.event_log import EventLog
from obdsup.supervisor.fleet import Fleet
from obdsup.supervisor.provider.base import RingHandle
from obdsup.supervisor.reclaim import Reclaim
from obdsup.supervisor.restore import begin_boot, restore
from obdsup.supervisor.settings import Settings
from obdsup.supervisor.worker import Worker
from obdsup.supervisor.worker_link import WorkerLink

__all__ = ["Adoption"]

DRAIN_SLACK_S = 2.0
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Living:
    """A process that is one of our workers, by pid, start time and pidfd."""

    worker_id: str
    identity: ProcessIdentity
    pidfd: int
    socket: str


class Adoption:
    """Runs once, in a thread of its own, while the loop runs."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        events: EventLog,
        loop: EmbeddedSupervisor,
        fleet: Fleet,
        devices: Devices,
        boot_id: str,
        reclaim: Reclaim,
    ) -> None:
        self._settings = settings
        self._boot_id = boot_id
        self._reclaim = reclaim
        self._reclaimed: list[Device] = []  # whose rows were made anew
        self._database = database
        self._events = events
        self._loop = loop
        self._fleet = fleet
        self._devices = devices
        self._lock = threading.Lock()
        self._open: dict[str, Device] = {}  # devices not yet settled

    def run(self, *, is_same_boot: bool) -> None:
        """Settles every device of state.db; returns when each has a server or tries for one.

        Devices of an earlier boot are made again, where they are marked for it, or forgotten.
        """
        if not is_same_boot:
            begin_boot(self._settings, self._database, self._boot_id, self._devices.void)
        living = self._find_living()
        loaded = self._devices.load(self._reclaim.doubt)
        self._open = {device.record.name: device for device in loaded}
        living_pids = {one.identity.pid for one in living}
        for device in loaded:
            owner = device.serving.journal.counters().owner_pid
            if not living or (owner not in living_pids and not self._may_serve(device, living)):
                self._orphan(device, "worker and supervisor died")
        threads = [threading.Thread(target=self._meet, args=(one,), daemon=True) for one in living]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for device in list(self._open.values()):
            self._orphan(device, "no living worker serves it")
        for device in (*loaded, *self._reclaimed):
            if device.state is DeviceState.RESTORING:
                restore(device, self._events, self._devices.prewarm)
            else:
                self._devices.resume(device)
                self._reclaim.republish(device)

    # -- who lives -----------------------------------------------------------------------------
    def _find_living(self) -> list[_Living]:
        rows: list[WorkerRow] = self._database.read(tables.load_workers)  # type: ignore[assignment]
        known = {row.id: row for row in rows}
        found: dict[str, _Living] = {}
        self._note_ids_in_use()
        for path in sorted(self._settings.workers_dir.glob("*.sock")):
            one = self._at_socket(path)
            if one is not None:
                found[one.worker_id] = one
        for row in known.values():
            self._fleet.note_number(row.id)
            if row.id in found:
                continue
            pidfd = processes.open_pidfd(row.identity)
            if pidfd is not None:  # started, not listening yet
                found[row.id] = _Living(row.id, row.identity, pidfd, row.socket)
            else:
                self._database.later(tables.delete_worker(row.id))
        for one in self._in_proc(found):
            found[one.worker_id] = one
        return list(found.values())

    def _in_proc(self, found: Collection[str]) -> Iterator[_Living]:
        """Workers of this run directory that neither a socket nor a row tells of."""
        mark = os.fsencode(f"{self._settings.workers_dir}/")
        for pid, words in processes.command_lines():
            sockets = [word for word in words if word.startswith(mark) and b"--socket" in words]
            path = Path(os.fsdecode(sockets[0])) if sockets else None
            identity = processes.identify(pid) if path is not None else None
            if path is None or identity is None or path.suffix != ".sock" or path.stem in found:
                continue
            pidfd = processes.open_pidfd(identity)
            if pidfd is not None:
                self._fleet.note_number(path.stem)
                yield _Living(path.stem, identity, pidfd, str(path))

    def _note_ids_in_use(self) -> None:
        """Before anything is started: rows of workers may be lost, sockets and logs are there."""
        for path in self._settings.workers_dir.glob("*.sock"):
            self._fleet.note_number(path.stem)
        for path in self._settings.log_dir.glob("worker-*.log"):
            self._fleet.note_number(path.stem.removeprefix("worker-"))

    def _at_socket(self, path: Path) -> _Living | None:
        """The process that listens there, by what the kernel says; a dead socket is removed."""
        link = WorkerLink(path.stem, str(path))
        try:
            identity = processes.identify(link.peer_pid(self._settings.hello_timeout_s))
        except WorkerLost as error:
            if not error.fields.get("is_timeout"):
                path.unlink(missing_ok=True)
            return None
        pidfd = processes.open_pidfd(identity) if identity is not None else None
        if identity is None or pidfd is None:
            path.unlink(missing_ok=True)
            return None
        return _Living(path.stem, identity, pidfd, str(path))

    def _may_serve(self, device: Device, living: list[_Living]) -> bool:
        return any(one.worker_id == device.record.row.worker_id for one in living)

    # -- one living worker -------------------------------------------------------------------------
    def _meet(self, one: _Living) -> None:
        link = WorkerLink(one.worker_id, one.socket)
        deadline = time.monotonic() + self._settings.hello_timeout_s
        while True:
            try:
                hello = link.call_aside("hello", self._settings.hello_timeout_s)
                break
            except ObdError as error:
                if error.fields.get("code") == UNKNOWN_VERSION:
                    self._refuse(one, str(error))
                    return
                is_timeout = isinstance(error, WorkerLost) and error.fields.get("is_timeout")
                if is_timeout or time.monotonic() >= deadline or processes.has_exited(one.pidfd):
                    self._fence(one, str(error))
                    return
                processes.has_exited(one.pidfd, 0.005)
        try:
            self._take(one, hello, link.version)
        finally:
            hello.close_fds()

    def _take(self, one: _Living, hello: Packet, version: int) -> None:
        body = hello.body
        is_same = (body.get("pid"), body.get("start_time")) == (
            one.identity.pid,
            one.identity.start_time,
        )
        served = [row for row in body.get("devices", []) if not row.get("failed")]
        lost = [row for row in body.get("devices", []) if row.get("failed")]
        changing = [*body.get("changing", []), *_draining(served)]
        if changing:
            self._fence(one, f"carries out an order of an earlier supervisor for {changing[0]}")
            return
        if not is_same or lost:
            self._fence(one, "is not what it must be" if not is_same else f"lost {lost}")
            return
        worker = self._adopt(one, version)
        names = [str(row["name"]) for row in served]
        self._fleet.adopted(worker, names, str(body.get("release", "")))
        for row in served:
            self._adopt_one(worker, row, hello)

    def _adopt_one(self, worker: Worker, row: dict[str, Any], hello: Packet) -> None:
        """One of its devices. A message holds the fds of a few: others are asked for by name, and
        so are those without a row, of which the answer then says all that the worker was told.
        """
        fds = _take_fds(row, hello)
        with self._lock:
            device = self._open.pop(str(row["name"]), None)
        if fds and device is not None:
            self._adopt_ring(worker, device, row, fds)
            return
        for fd in fds:
            os.close(fd)
        try:
            own = worker.link.call_aside(
                "hello", self._settings.hello_timeout_s, device=row["name"]
            )
        except ObdError:
            own = hello  # without fds: fenced below
        rows = [one for one in own.body["devices"] if one["name"] == row["name"]]
        try:
            row = rows[0] if rows else row
            fds = _take_fds(row, own)
        finally:
            own.close_fds()
        if device is None and fds:
            device = self._claim(worker, row, fds[-1])
        if device is not None:
            self._adopt_ring(worker, device, row, fds)
            return
        for fd in fds:
            os.close(fd)

    def _claim(self, worker: Worker, row: dict[str, Any], journal_fd: int) -> Device | None:
        device = self._reclaim.claim_served(str(row["name"]), row, journal_fd, worker.identity.pid)
        if device is not None:
            with self._lock:
                self._reclaimed.append(device)
        return device

    def _adopt(self, one: _Living, version: int) -> Worker:
        """In the loop: supervisord's objects belong to it."""
        done: Future[Worker] = Future()

        def adopt() -> None:
            done.set_result(
                self._fleet.adopt(one.worker_id, one.identity, one.pidfd, one.socket, version)
            )

        self._loop.call_soon(adopt)
        return done.result()

    def _adopt_ring(
        self, worker: Worker, device: Device, row: dict[str, Any], fds: list[int]
    ) -> None:
        """Owns ``fds``: those of the ring, then the journal's; none: the worker gave none back."""
        name, ring = device.record.name, row["ring"]
        if not fds:
            self._fleet.fence(worker, "gave no ring back")
            self._orphan(device, "the worker gave no ring back", is_open=False)
            return
        generation = row.get("generation")
        if isinstance(generation, int) and generation > device.record.row.generation:
            device.record.later(generation=generation)
        device.record.later(worker_id=worker.id)
        device.serving.adopt(
            worker, RingHandle(str(ring["kind"]), fds[:-1], int(ring["map_bytes"])), fds[-1]
        )
        self._events.emit(
            "ring.adopted", name, worker=worker.id, pid=worker.identity.pid, gen=generation
        )

    def _refuse(self, one: _Living, reason: str) -> None:
        """Its devices are taken over drained; what it can not drain in time is killed with it."""
        self._events.emit(
            "worker.refused", level=logging.ERROR, worker=one.worker_id, pid=one.identity.pid,
            reason=reason,
        )  # fmt: skip
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(one.pidfd, signal.SIGTERM)
        if not processes.has_exited(one.pidfd, self._settings.drain_timeout_s + DRAIN_SLACK_S):
            self._fence(one, f"{reason}; it does not end")
        else:
            self._forget(one)
        with self._lock:
            left = list(self._open.values())
        for device in left:
            if device.serving.journal.counters().owner_pid == one.identity.pid:
                self._orphan(device, reason)

    def _fence(self, one: _Living, reason: str) -> None:
        self._events.emit(
            "worker.fenced", level=logging.WARNING, worker=one.worker_id, pid=one.identity.pid,
            reason=reason,
        )  # fmt: skip
        processes.kill(one.pidfd, self._settings.kill_timeout_s)
        self._forget(one)

    def _forget(self, one: _Living) -> None:
        """It is dead: after a re-exec it may be a child of ours, whom nobody else waits for."""
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, one.pidfd, os.WEXITED | os.WNOHANG)
        os.close(one.pidfd)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(one.socket)
        self._database.later(tables.delete_worker(one.worker_id))

    # -- nobody serves ---------------------------------------------------------------------------
    def _orphan(self, device: Device, cause: str, *, is_open: bool = True) -> None:
        """Takes over at once. A device that was never served waits for its operation."""
        with self._lock:
            if is_open and self._open.pop(device.record.name, None) is None:
                return
        if device.record.row.generation > 0:
            device.serving.orphaned(cause)


def _take_fds(row: dict[str, Any], hello: Packet) -> list[int]:
    """The fds of one device: of the ring, then the journal; none when they are not all there."""
    count = int(row.get("ring", {}).get("fd_count", 0))
    wanted = count + 1 if count else 0
    fds, hello.fds = hello.fds[:wanted], hello.fds[wanted:]
    if len(fds) == wanted:
        return fds
    for fd in fds:
        os.close(fd)
    return []


def _draining(rows: list[dict[str, object]]) -> list[object]:
    """Of a release that does not tell what it is changing."""
    return [row.get("name") for row in rows if row.get("state") == "draining"]
