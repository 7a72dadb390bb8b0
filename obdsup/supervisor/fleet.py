"""All worker processes: starting, adopting, giving one to a device, keeping standbys warm.

Threads: ``acquire``, ``release`` and ``give_back`` are called by the devices' threads; processes
are started and their ends noticed in supervisord's loop; one short-lived thread per new worker
waits for its hello and has it open the images. The fleet's lock is never held across a call to a
worker.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from obdsup.errors import ObdError, WorkerLost
from obdsup.state import process as processes
from obdsup.state import tables
from obdsup.state.database import Database
from obdsup.state.device import WorkerRow
from obdsup.state.process import ProcessIdentity
from obdsup.supervisor.backoff import Backoff
from obdsup.supervisor.death import Death, judge_death
from obdsup.supervisor.embedding import WORKERS_GROUP, EmbeddedSupervisor
from obdsup.supervisor.event_log import EventLog
from obdsup.supervisor.release import Release, find_release, own_release, worker_command
from obdsup.supervisor.settings import Settings
from obdsup.supervisor.worker import Worker
from obdsup.supervisor.worker_link import WorkerLink
from obdsup.supervisor.worker_machine import WorkerAction, WorkerEvent, WorkerState
from obdsup.supervisor.worker_process import WorkerProcess, WorkerProcessConfig

__all__ = ["Fleet", "FleetHooks"]

CONNECT_RETRY_S = 0.005
DEAD_LOGS_KEPT = 32
STOPPED_KEPT = 8  # stopped by hand: kept so that supervisorctl can start them again
PREWARM_TIMEOUT_S = 60.0
WARM_PATIENCE_S = 1.0  # a standby that waits longer for one image would be missing for all others


@dataclass(frozen=True, slots=True)
class FleetHooks:
    """What the fleet asks of its owner. All are called from any thread and must not block."""

    images: Callable[[], Iterable[tuple[str, dict[str, object]]]]  # device name, image message
    on_worker_exited: Callable[[Worker], None]  # proven dead, while it served ``worker.device``
    pinned_release: Callable[[str], str]  # device name: path of the release its workers come from
    pinned_releases: Callable[[], Iterable[str]]  # all that devices are pinned to


class Fleet:
    """Owns the Worker records."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        events: EventLog,
        loop: EmbeddedSupervisor,
        hooks: FleetHooks,
    ) -> None:
        self._settings = settings
        self._database = database
        self._events = events
        self._loop = loop
        self._hooks = hooks
        self._changed = threading.Condition()
        self._workers: dict[str, Worker] = {}
        self._waiting: Counter[str] = Counter()  # threads in acquire, by release path
        self._releases = {"": own_release()}  # those asked for so far, by path
        self._extra: dict[str, int] = {}  # standbys wanted of other releases, by path
        # Called in the loop with every worker that died; must not block.
        self.listeners: list[Callable[[Worker, Death], None]] = []
        self._last_number = 0
        self._backoff = Backoff()
        self._no_spawn_before_s = 0.0
        self._dead_logs: deque[Path] = deque()

    # -- what others see ---------------------------------------------------------------------
    def workers(self) -> list[Worker]:
        """A snapshot."""
        with self._changed:
            return list(self._workers.values())

    def get(self, worker_id: str) -> Worker | None:
        with self._changed:
            return self._workers.get(worker_id)

    def standbys_ready(self, release: Release | None = None) -> int:
        """Standbys whose images are open, of one release or of all."""
        with self._changed:
            return sum(
                worker.is_warm
                for worker in self._workers.values()
                if worker.state is WorkerState.STANDBY
                and (release is None or worker.release_path == release.path)
            )

    # -- releases ----------------------------------------------------------------------------
    def release_of(self, path: str) -> Release:
        """The release at a path, "" for our own. Asks its interpreter the first time: may block.

        Raises:
            ConfigError: there is none.
        """
        found = self._releases.get(path)
        if found is None:
            found = self._releases[path] = find_release(Path(path))
        return found

    def want_standbys(self, release: Release, count: int) -> None:
        """Keeps ``count`` warm standbys of a release, until called with 0. Of our own, and of every
        release that devices are pinned to, as many as the settings say are kept anyway."""
        with self._changed:
            self._releases.setdefault(release.path, release)
            if count:
                self._extra[release.path] = count
            else:
                self._extra.pop(release.path, None)
        self.replenish_soon()

    def _wanted(self) -> dict[str, int]:
        """How many standbys, by release path. Under the lock."""
        wanted = dict.fromkeys(self._hooks.pinned_releases(), self._settings.standbys)
        wanted[""] = self._settings.standbys
        for path, count in self._extra.items():
            wanted[path] = max(count, wanted.get(path, 0))
        for path, count in self._waiting.items():
            wanted[path] = wanted.get(path, 0) + count
        return wanted

    # -- giving a worker to a device ---------------------------------------------------------
    def acquire(
        self,
        device: str,
        timeout_s: float,
        *,
        is_warm: bool = False,
        release: Release | None = None,
    ) -> Worker:
        """A standby for the device, warm ones first; starts one when there is none and waits.

        Args:
            device: who gets it.
            timeout_s: longest wait.
            is_warm: only one whose images are open will do.
            release: where it must come from; None for the one the device is pinned to.

        Raises:
            WorkerLost: none got ready in time, or none of that release can be started.
        """
        deadline = time.monotonic() + timeout_s
        path = self._hooks.pinned_release(device) if release is None else release.path
        with self._changed:
            if release is not None:
                self._releases.setdefault(path, release)
            self._waiting[path] += 1
            try:
                while True:
                    found = self._choose(path, is_warm=is_warm)
                    if found is not None:
                        found.step(WorkerEvent.ASSIGNED)
                        found.device = device
                        return found
                    left = deadline - time.monotonic()
                    if left <= 0 or (path and not os.access(self._command(path)[0], os.X_OK)):
                        raise WorkerLost(
                            f"no standby worker {f'of {path} ' if path else ''}got ready"
                            f" in {timeout_s} s",
                            hint=f"see the logs in {self._settings.log_dir}",
                            device=device,
                        )
                    self._loop.call_soon(self._replenish)
                    self._changed.wait(min(left, 0.25))
            finally:
                self._waiting[path] -= 1

    def open_image(self, device: str, image: dict[str, object]) -> dict[str, Any]:
        """Has a standby open an image and returns what it says: size_bytes, is_writable.

        Raises:
            ObdError: why it can not be opened, or WorkerLost when no standby got ready.
        """
        worker = self.acquire(device, self._settings.start_timeout_s)
        try:
            answer = worker.link.call_aside(
                "prewarm", self._settings.serve_timeout_s, device=device, image=image
            )
            return answer.body
        finally:
            self.give_back(worker)

    def give_back(self, worker: Worker) -> None:
        """The worker serves nothing after all: a standby again, unless it has died."""
        self._step(worker, WorkerEvent.RETURNED, forget_device=True)

    def release(self, worker: Worker) -> None:
        """The worker let go of its device: it is stopped, a fresh standby replaces it."""
        self._step(worker, WorkerEvent.RELEASED, forget_device=True)

    def discard(self, worker: Worker) -> None:
        """The worker is not to be used any more: it is stopped, or killed if it does not."""
        self._step(worker, WorkerEvent.STOP_ASKED)

    def replenish_soon(self) -> None:
        """Starts standbys up to the number wanted, in the loop."""
        self._loop.call_soon(self._replenish)

    def fence(self, worker: Worker, reason: str, *, is_hang: bool = False) -> bool:
        """SIGKILL and wait until the process is proven dead; False: it is stuck in the kernel.

        Args:
            worker: which one.
            reason: for the event.
            is_hang: it did not move: what it was executing is to blame for its death.
        """
        worker.is_hung = worker.is_hung or is_hang
        self._events.emit(
            "worker.fenced", worker.device, level=logging.WARNING, worker=worker.id,
            pid=worker.identity.pid, reason=reason,
        )  # fmt: skip
        fd = processes.open_pidfd(worker.identity)
        if fd is None:
            return True
        try:
            return processes.kill(fd, self._settings.kill_timeout_s)
        finally:
            os.close(fd)

    # -- images ------------------------------------------------------------------------------
    def prewarm(self, device: str, image: dict[str, object]) -> None:
        """Has every standby open the image, in the background."""
        for worker in self.workers():
            if worker.state is WorkerState.STANDBY:
                self._thread(f"prewarm-{worker.id}", self._prewarm_one, worker, device, image)

    def forget(self, device: str) -> None:
        """Has every worker close the image, in the background: one that serves another device has
        it open from when it was a standby, and would keep a removed layer's space from being freed.
        """
        for worker in self.workers():
            if worker.state in (WorkerState.STANDBY, WorkerState.SERVING):
                self._thread(f"forget-{worker.id}", self._forget_one, worker, device)

    # -- processes, in the loop --------------------------------------------------------------
    def adopt(self, worker_id: str, identity: ProcessIdentity, pidfd: int, socket: str) -> Worker:
        """Takes over a living worker of an earlier supervisor; owns ``pidfd`` from now on.

        The worker is STARTING until ``adopted`` says what it does. May be called from any thread
        before the loop runs; afterwards in the loop only.
        """
        self._note_number(worker_id)
        path = self._release_path(identity.pid)
        link = WorkerLink(worker_id, socket)
        worker = Worker(worker_id, identity, pidfd, link, release_path=path)
        with self._changed:
            self._workers[worker_id] = worker
        process = self._config(worker_id, path).make_process(self._group())
        self._group().processes[worker_id] = process
        process.adopt(identity, pidfd)
        return worker

    def adopted(self, worker: Worker, device: str, release: str) -> None:
        """What an adopted worker does: serves ``device``, or "" for a standby."""
        with self._changed:
            worker.release, worker.device = release, device
            is_standby = not device
        self._events.emit(
            "worker.adopted", device, worker=worker.id, pid=worker.identity.pid, release=release
        )
        self._database.later(
            tables.put_worker(WorkerRow(worker.id, worker.identity, worker.link.path))
        )
        event = WorkerEvent.ANSWERED if is_standby else WorkerEvent.ANSWERED_SERVING
        self._step(worker, event)

    def note_last_number(self, number: int) -> None:
        """Worker ids start after this number."""
        self._last_number = max(self._last_number, number)

    def _note_number(self, worker_id: str) -> None:
        if worker_id[1:].isdigit():
            self.note_last_number(int(worker_id[1:]))

    def _group(self) -> Any:
        return self._loop.process_groups[WORKERS_GROUP]

    def _command(self, release_path: str) -> tuple[str, ...]:
        """How a worker is started. No probe: a take-over can not wait for one."""
        if not release_path:
            return self._settings.worker_command
        return worker_command(release_path)

    def _release_path(self, pid: int) -> str:
        """Where the release of a worker that another supervisor started lies, by its command."""
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()
        except (OSError, UnicodeDecodeError):
            return ""
        if not command.startswith("/") or not Path(command).name.startswith("python"):
            return ""  # not started by the command of a release
        root, own = (
            Path(name).parent.parent for name in (command, self._settings.worker_command[0])
        )
        return "" if root == own else str(root)

    def _config(self, worker_id: str, release_path: str) -> WorkerProcessConfig:
        socket = self._settings.workers_dir / f"{worker_id}.sock"
        argv = [*self._command(release_path), "--id", worker_id, "--socket", str(socket)]
        log_path = self._settings.log_dir / f"worker-{worker_id}.log"
        return WorkerProcessConfig(
            self._loop.options, worker_id, argv, log_path, self._on_spawned, self._on_exited,
            release_path,
        )  # fmt: skip

    def _replenish(self) -> None:
        """Starts as many as are wanted and not under way."""
        if time.monotonic() < self._no_spawn_before_s:
            return
        with self._changed:
            have = Counter(
                worker.release_path
                for worker in self._workers.values()
                if worker.state in (WorkerState.STARTING, WorkerState.STANDBY)
            )
            missing = {path: count - have[path] for path, count in self._wanted().items()}
        for path, count in missing.items():
            for _ in range(count):
                if not self._start_one(path):
                    break

    def _start_one(self, release_path: str) -> bool:
        self._last_number += 1
        worker_id = f"w{self._last_number}"
        process = self._config(worker_id, release_path).make_process(self._group())
        self._group().processes[worker_id] = process
        if process.spawn() is not None:
            return True
        self._events.emit(
            "worker.failed", level=logging.ERROR, worker=worker_id, reason=process.spawnerr,
            release=release_path,
        )  # fmt: skip
        del self._group().processes[worker_id]
        if not release_path:  # a release that was removed must not keep ours from being started
            self._spawn_failed()
        return False

    def trim(self) -> None:
        """Stops standbys beyond the number wanted: left over from many devices lost at once, or
        from a release that nobody wants any more."""
        with self._changed:
            wanted = self._wanted()
            spare = []
            for worker in self._workers.values():
                if worker.state is WorkerState.STANDBY:
                    left = wanted.get(worker.release_path, 0)
                    wanted[worker.release_path] = left - 1
                    if left <= 0:
                        spare.append(worker)
        for worker in spare:
            self._step(worker, WorkerEvent.STOP_ASKED, only_while=WorkerState.STANDBY)

    def _on_spawned(self, process: WorkerProcess, pidfd: int) -> None:
        assert process.identity is not None
        worker_id = process.config.name
        socket = str(self._settings.workers_dir / f"{worker_id}.sock")
        worker = Worker(
            worker_id, process.identity, pidfd, WorkerLink(worker_id, socket),
            release_path=process.config.release_path,
        )  # fmt: skip
        with self._changed:
            self._workers[worker_id] = worker
        self._database.later(tables.put_worker(WorkerRow(worker_id, process.identity, socket)))
        self._events.emit("worker.spawned", worker=worker_id, pid=process.identity.pid)
        self._thread(f"attend-{worker_id}", self._attend, worker)

    def _on_exited(self, process: WorkerProcess, exit_status: int | None) -> None:
        worker = self.get(process.config.name)
        if worker is None:
            return
        worker.exited_s = time.monotonic()
        was_starting = worker.state is WorkerState.STARTING
        death = worker.death = judge_death(exit_status, is_hung=worker.is_hung, is_oom=False)
        worker.has_exited.set()
        actions = self._step(worker, WorkerEvent.EXITED)  # tells the device first of all
        with self._changed:
            self._workers.pop(worker.id, None)
            self._changed.notify_all()
        worker.link.close()
        expected = not was_starting and WorkerAction.REPLENISH in actions and exit_status == 0
        self._events.emit(
            "worker.stopped" if expected else "worker.lost", worker.device,
            level=logging.INFO if expected else logging.WARNING, worker=worker.id,
            pid=worker.identity.pid, status="unknown" if exit_status is None else exit_status,
            cause=death.cause.value,
        )  # fmt: skip
        for listener in self.listeners:
            listener(worker, death)
        if was_starting and not worker.release_path:
            self._spawn_failed()
        self._drop_process(process)

    def _drop_process(self, process: WorkerProcess) -> None:
        """A dead worker's name is not used again, unless an operator stopped it by hand."""
        (self._settings.workers_dir / f"{process.config.name}.sock").unlink(missing_ok=True)
        self._dead_logs.append(process.config.log_path)
        if len(self._dead_logs) > DEAD_LOGS_KEPT:
            self._dead_logs.popleft().unlink(missing_ok=True)
        mine = self._group().processes
        if not process.administrative_stop:
            self._loop.call_soon(lambda: mine.pop(process.config.name, None))
        stopped = [p for p in mine.values() if not p.pid and p.administrative_stop]
        for old in stopped[:-STOPPED_KEPT]:
            mine.pop(old.config.name, None)

    def _spawn_failed(self) -> None:
        wait_s = self._backoff.failed(time.monotonic(), random.random())
        self._no_spawn_before_s = time.monotonic() + wait_s

    # -- machine -----------------------------------------------------------------------------
    def _step(
        self,
        worker: Worker,
        event: WorkerEvent,
        *,
        forget_device: bool = False,
        only_while: WorkerState | None = None,
    ) -> tuple[WorkerAction, ...]:
        with self._changed:
            if only_while is not None and worker.state is not only_while:
                return ()
            actions = worker.step(event)
            device = worker.device
            if forget_device:
                worker.device = ""
            self._changed.notify_all()
        for action in actions:
            if action is WorkerAction.TELL_DEVICES and device:
                self._hooks.on_worker_exited(worker)
            elif action is WorkerAction.REPLENISH:
                self.replenish_soon()
            elif action is WorkerAction.FORGET:
                self._database.later(tables.delete_worker(worker.id))
            elif action is WorkerAction.PREWARM:
                self._thread(f"warm-{worker.id}", self._warm, worker)
            elif action is WorkerAction.STOP:
                self._thread(f"stop-{worker.id}", self._stop, worker)
        return actions

    def _choose(self, release_path: str, *, is_warm: bool) -> Worker | None:
        standbys = [
            worker
            for worker in self._workers.values()
            if worker.state is WorkerState.STANDBY and worker.release_path == release_path
        ]
        warm = [worker for worker in standbys if worker.is_warm]
        if warm:
            return warm[0]
        return standbys[0] if standbys and not is_warm else None

    # -- threads of one worker ---------------------------------------------------------------
    def _thread(self, name: str, call: Callable[..., None], *arguments: object) -> threading.Thread:
        thread = threading.Thread(target=call, args=arguments, name=name, daemon=True)
        thread.start()
        return thread

    def _attend(self, worker: Worker) -> None:
        """Waits for the first hello of a worker we started."""
        deadline = time.monotonic() + self._settings.start_timeout_s
        while not worker.has_exited.wait(CONNECT_RETRY_S):
            try:
                hello = worker.link.call("hello", self._settings.hello_timeout_s)
            except ObdError as error:
                if time.monotonic() < deadline:
                    continue
                self.fence(worker, f"no hello in {self._settings.start_timeout_s} s: {error}")
                return
            hello.close_fds()
            self._backoff.succeeded()
            worker.release = str(hello.body.get("release", ""))
            self._step(worker, WorkerEvent.ANSWERED, only_while=WorkerState.STARTING)
            return

    def _warm(self, worker: Worker) -> None:
        """One image after the other; one that does not answer is left to open while others do."""
        for device, image in list(self._hooks.images())[: self._settings.prewarm_max]:
            name = f"prewarm-{worker.id}"
            opening = self._thread(name, self._prewarm_one, worker, device, image)
            opening.join(WARM_PATIENCE_S)
        with self._changed:
            worker.is_warm = True
            self._changed.notify_all()
        self._events.emit("worker.ready", worker=worker.id, pid=worker.identity.pid)

    def _prewarm_one(self, worker: Worker, device: str, image: dict[str, object]) -> None:
        """A device whose image can not be opened is its own problem: served devices go on."""
        try:
            worker.link.call_aside("prewarm", PREWARM_TIMEOUT_S, device=device, image=image)
        except ObdError as error:
            if not worker.has_exited.is_set():
                self._events.emit(
                    "worker.slow",
                    device,
                    level=logging.WARNING,
                    worker=worker.id,
                    reason=str(error),
                )

    def _forget_one(self, worker: Worker, device: str) -> None:
        with contextlib.suppress(ObdError):
            worker.link.call_aside("forget", PREWARM_TIMEOUT_S, device=device)

    def _stop(self, worker: Worker) -> None:
        """Asks to stop; what does not follow is killed: it serves nothing any more."""
        with contextlib.suppress(ObdError):
            worker.link.call("stop", self._settings.hello_timeout_s)
        if not worker.has_exited.wait(self._settings.drain_timeout_s):
            self.fence(worker, "did not stop")
