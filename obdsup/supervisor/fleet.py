"""All worker processes: which there are, which device gets which, how many standbys are kept.

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
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from obdsup.errors import ObdError, WorkerLost
from obdsup.state import process as processes
from obdsup.state import tables
from obdsup.state.database import Database
from obdsup.state.device import WorkerRow
from obdsup.state.messages import UNKNOWN_VERSION
from obdsup.state.process import ProcessIdentity
from obdsup.supervisor import placement
from obdsup.supervisor.backoff import Backoff
from obdsup.supervisor.death import Cause, Death, Hang, judge_death
from obdsup.supervisor.embedding import EmbeddedSupervisor
from obdsup.supervisor.event_log import EventLog
from obdsup.supervisor.placement import Lodger, Seat
from obdsup.supervisor.release import Release, find_release, own_release
from obdsup.supervisor.settings import Settings
from obdsup.supervisor.warming import Warming
from obdsup.supervisor.worker import Worker
from obdsup.supervisor.worker_cgroup import WorkerCgroups
from obdsup.supervisor.worker_link import WorkerLink
from obdsup.supervisor.worker_machine import WorkerAction, WorkerEvent, WorkerState
from obdsup.supervisor.worker_process import WorkerProcess
from obdsup.supervisor.worker_starter import WorkerStarter

__all__ = ["Fleet", "FleetHooks"]

CONNECT_RETRY_S = 0.005
# More at once would only slow each other down, and with them the take-overs that wait for one.
STARTS_AT_ONCE = max(2, os.cpu_count() or 1)
# Workers lost so soon after one another are a rush: devices go on what is there, and no worker is
# started meanwhile unless one waits for it. Each start holds the interpreter and a processor.
RUSH_S = 0.2
FRESH_S = 1.0  # a worker that was given a device so lately is not one of those that just died


@dataclass(frozen=True, slots=True)
class FleetHooks:
    """What the fleet asks of its owner. All are called from any thread and must not block."""

    images: Callable[[], Iterable[tuple[str, dict[str, object]]]]  # device name, image message
    on_worker_exited: Callable[[Worker], None]  # proven dead, while it served ``worker.devices``
    lodger: Callable[[str], Lodger]  # by device name; of an unknown one the defaults
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
        self._starter = WorkerStarter(settings, loop, self._on_spawned, self._on_exited)
        self._cgroups = WorkerCgroups(settings.run_dir)
        self._cgroups.remove_empty()
        self._is_limit_refused = False
        self._warming = Warming(settings, events, hooks.images)
        self._changed = threading.Condition()
        self._workers: dict[str, Worker] = {}
        self._waiting: Counter[str] = Counter()  # threads in acquire, by release path
        self._is_replenish_asked = self._is_put_off = False
        self._lost_s: deque[float] = deque([0.0, 0.0], maxlen=2)  # monotonic: the last two deaths
        self._urgent_s = 0.0  # monotonic: the last time a device that nobody serves asked
        self._releases = {"": own_release()}  # those asked for so far, by path
        self._extra: dict[str, int] = {}  # standbys wanted of other releases, by path
        # Called in the loop with every worker that died; must not block.
        self.listeners: list[Callable[[Worker, Death], None]] = []
        self._backoffs: defaultdict[str, Backoff] = defaultdict(Backoff)  # by release path
        self._no_spawn_before_s: dict[str, float] = {}  # monotonic, by release path
        self._refused: dict[str, str] = {}  # why its workers are of no use, by release path

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

    def seats(self) -> list[Seat]:
        """The workers that serve, as placement sees them."""
        with self._changed:
            serving = [w for w in self._workers.values() if w.state is WorkerState.SERVING]
            return [self._seat(worker) for worker in serving]

    def quiet_s(self) -> float:
        """For how long no device that nobody serves has asked for a worker; 0: one waits."""
        with self._changed:
            return 0.0 if self._waiting.total() else time.monotonic() - self._urgent_s

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
            self._releases[release.path] = release
            if count:
                self._refused.pop(release.path, None)
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
        is_urgent: bool = False,
    ) -> Worker:
        """A worker for the device by the rules of ``placement``, most often a standby, warm ones
        first; starts one when there is none and waits. It keeps its images until ``arrived``.

        Args:
            device: who gets it.
            timeout_s: longest wait.
            is_warm: only one whose images are open will do.
            release: where it must come from; None for the one the device is pinned to.
            is_urgent: nobody serves the device: it may go where others are for the time being.

        Raises:
            WorkerLost: none got ready in time, or none of that release can be started.
        """
        deadline = time.monotonic() + timeout_s
        lodger = self._hooks.lodger(device)
        path = lodger.release_path if release is None else release.path
        with self._changed:
            if release is not None:
                self._releases.setdefault(path, release)
            with self._counted(path):
                while True:
                    found = self._choose(lodger, path, is_warm=is_warm, is_urgent=is_urgent)
                    if is_urgent:
                        self._urgent_s = time.monotonic()
                    if found is not None:
                        found.step(WorkerEvent.ASSIGNED)
                        found.assigned_s = time.monotonic()
                        self._changed.notify_all()  # others may go there as well
                        found.devices.add(device)
                        found.coming.add(device)
                        break
                    self._wait(path, deadline, timeout_s, device)
        self._limit_memory(found)
        return found

    @contextlib.contextmanager
    def _counted(self, path: str) -> Iterator[None]:
        self._waiting[path] += 1
        try:
            yield
        finally:
            self._waiting[path] -= 1

    def _wait(self, path: str, deadline: float, timeout_s: float, device: str) -> None:
        left = deadline - time.monotonic()
        if path in self._refused:
            raise WorkerLost(
                f"workers of {path or 'our own release'} are of no use: {self._refused[path]}",
                device=device,
            )
        is_gone = bool(path) and not os.access(self._starter.command(path)[0], os.X_OK)
        if left <= 0 or is_gone:
            raise WorkerLost(
                f"no standby worker {f'of {path} ' if path else ''}got ready in {timeout_s} s",
                hint=f"see the logs in {self._settings.log_dir}",
                device=device,
            )
        self.replenish_soon()
        self._changed.wait(min(left, 0.25))

    def _choose(
        self, lodger: Lodger, path: str, *, is_warm: bool, is_urgent: bool
    ) -> Worker | None:
        """Under the lock. A worker that settled is looked at only when the device shares."""
        could = [
            worker
            for worker in self._workers.values()
            if worker.release_path == path
            and lodger.name not in worker.devices
            and (
                worker.state is WorkerState.STANDBY
                or (
                    worker.state is WorkerState.SERVING
                    and (lodger.per_worker > 1 or (is_urgent and not worker.is_settled))
                )
            )
        ]
        seats = (self._seat(worker) for worker in could)
        is_rush = time.monotonic() - self._lost_s[0] < RUSH_S
        found = placement.choose(
            lodger, seats, is_warm=is_warm, may_crowd=is_urgent, is_rush=is_rush
        )
        return self._workers[found] if found is not None else None

    def _seat(self, worker: Worker) -> Seat:
        lodgers = tuple(self._hooks.lodger(name) for name in sorted(worker.devices))
        is_fresh = time.monotonic() - worker.assigned_s < FRESH_S
        return Seat(worker.id, lodgers, worker.is_warm, worker.is_settled, is_fresh)

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
            worker.images.add(device)
            return answer.body
        finally:
            self.give_back(worker, device)

    def arrived(self, worker: Worker, device: str) -> None:
        """The worker serves the device that it was acquired for."""
        with self._changed:
            worker.coming.discard(device)

    def give_back(self, worker: Worker, device: str) -> None:
        """The worker does not serve the device after all: a standby again, unless it serves others
        or has died. One that closed the images of others would make a poor standby."""
        event = WorkerEvent.RELEASED if worker.is_settled else WorkerEvent.RETURNED
        self._leave(worker, device, event)

    def release(self, worker: Worker, device: str) -> None:
        """The worker let go of the device; of its last one: it is stopped, a fresh standby replaces
        it."""
        self._leave(worker, device, WorkerEvent.RELEASED)

    def discard(self, worker: Worker, device: str) -> None:
        """The worker is not to be used any more, if it serves no others: it is stopped, or killed
        if it does not."""
        self._leave(worker, device, WorkerEvent.STOP_ASKED)

    def _leave(self, worker: Worker, device: str, event: WorkerEvent) -> None:
        with self._changed:
            worker.devices.discard(device)
            worker.coming.discard(device)
            actions = () if worker.devices else worker.step(event)
            self._changed.notify_all()
        self._limit_memory(worker)
        self._carry_out(worker, actions)

    def _limit_memory(self, worker: Worker) -> None:
        """Gives the worker the limit that its devices ask for; without one it is left alone."""
        with self._changed:
            lodgers = self._seat(worker).lodgers
        refusal = self._cgroups.limit(
            worker.id, worker.identity.pid, placement.memory_limit(lodgers)
        )
        if refusal and not self._is_limit_refused and not worker.has_exited.is_set():
            self._is_limit_refused = True  # said once: it is the host, not the worker
            self._events.emit(
                "worker.unlimited", worker.device, level=logging.WARNING, worker=worker.id,
                reason=refusal,
            )  # fmt: skip

    def settle(self, worker_id: str) -> None:
        """The devices of a worker stay where they are: it closes the images of all others.

        Not one that was lent to look at an image, or does not serve yet what it was acquired for:
        the first comes back as a standby, the second still needs the image it has open.
        """
        with self._changed:
            worker = self._workers.get(worker_id)
            if worker is None or worker.state is not WorkerState.SERVING or worker.coming:
                return
            worker.is_settled, worker.is_warm = True, False
        self._warming.close_others(worker)

    def fence(self, worker: Worker, reason: str, hang: Hang | None = None) -> bool:
        """SIGKILL and wait until the process is proven dead; False: it is stuck in the kernel.

        Args:
            worker: which one.
            reason: for the event.
            hang: it did not move.
        """
        worker.hang = worker.hang or hang
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
                self._warming.open(worker, device, image)

    def forget(self, device: str) -> None:
        """Has every worker that may have it open close the image, in the background: an open file
        keeps a removed layer's space from being freed."""
        for worker in self.workers():
            is_holding = worker.state is WorkerState.SERVING and not worker.is_settled
            if worker.state is WorkerState.STANDBY or is_holding:
                self._warming.close(worker, device)

    # -- processes, in the loop --------------------------------------------------------------
    def adopt(
        self, worker_id: str, identity: ProcessIdentity, pidfd: int, socket: str, version: int
    ) -> Worker:
        """Takes over a living worker of an earlier supervisor; owns ``pidfd`` from now on. It
        agreed on ``version`` of the protocol.

        The worker is STARTING until ``adopted`` says what it does. May be called from any thread
        before the loop runs; afterwards in the loop only.
        """
        worker = Worker(worker_id, identity, pidfd, WorkerLink(worker_id, socket, version))
        with self._changed:
            self._workers[worker_id] = worker
        worker.release_path = self._starter.adopt(worker_id, identity, pidfd)
        return worker

    def adopted(self, worker: Worker, devices: Iterable[str], release: str) -> None:
        """What an adopted worker does: serves ``devices``, or none: a standby."""
        with self._changed:
            worker.release, worker.devices = release, set(devices)
            is_standby = not worker.devices
        self._events.emit(
            "worker.adopted", worker.device, worker=worker.id, pid=worker.identity.pid,
            release=release, protocol=worker.link.version,
        )  # fmt: skip
        self._database.later(
            tables.put_worker(WorkerRow(worker.id, worker.identity, worker.link.path))
        )
        event = WorkerEvent.ANSWERED if is_standby else WorkerEvent.ANSWERED_SERVING
        self._step(worker, event)

    def note_number(self, worker_id: str) -> None:
        """Worker ids start after this one."""
        self._starter.note_number(worker_id)

    def replenish_soon(self) -> None:
        """Starts standbys up to the number wanted, in the loop; when many workers were lost just
        now, after a moment."""
        if not self._is_replenish_asked:
            self._is_replenish_asked = True
            self._loop.call_soon(self._replenish)

    def _replenish(self) -> None:
        """Starts as many as are wanted and not under way, a few at a time."""
        self._is_replenish_asked = False
        now = time.monotonic()
        before_s, last_s = self._lost_s
        with self._changed:
            if now - before_s < RUSH_S and not self._waiting.total():
                if not self._is_put_off:
                    self._is_put_off = True
                    self._loop.call_later(last_s + RUSH_S - now, self._rush_over)
                return
            starting = Counter(
                worker.release_path
                for worker in self._workers.values()
                if worker.state is WorkerState.STARTING
            )
            have = starting + Counter(
                worker.release_path
                for worker in self._workers.values()
                if worker.state is WorkerState.STANDBY
            )
            missing = {path: count - have[path] for path, count in self._wanted().items()}
        for path, count in missing.items():
            if path in self._refused or now < self._no_spawn_before_s.get(path, 0.0):
                continue
            # By release: workers of one that never get ready must not keep ours from being started.
            for _ in range(max(min(count, STARTS_AT_ONCE - starting[path]), 0)):
                reason = self._starter.start(path)
                if reason is not None:
                    self._events.emit(
                        "worker.failed", level=logging.ERROR, reason=reason, release=path
                    )
                    self._start_failed(path)
                    break

    def _rush_over(self) -> None:
        self._is_put_off = False
        self._replenish()

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
        socket = str(self._starter.socket_of(worker_id))
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
        if worker.state is WorkerState.SERVING:
            self._lost_s.append(worker.exited_s)
        is_oom = self._cgroups.has_oom(worker.id)
        death = worker.death = judge_death(exit_status, hang=worker.hang, is_oom=is_oom)
        worker.has_exited.set()
        self._step(worker, WorkerEvent.EXITED)  # tells the devices first of all
        # The rest can wait until the loop has told the devices of all who died with this one.
        expected = not was_starting and exit_status == 0  # 0: it had let go of all it served
        self._loop.call_last(
            lambda: self._bury(
                process, worker, death, is_expected=expected, was_starting=was_starting
            )
        )

    def _bury(
        self,
        process: WorkerProcess,
        worker: Worker,
        death: Death,
        *,
        is_expected: bool,
        was_starting: bool,
    ) -> None:
        with self._changed:
            self._workers.pop(worker.id, None)
            self._changed.notify_all()
        worker.link.close()
        status = death.exit_status
        hang = {"hang": death.hang.kind} if death.hang is not None else {}
        self._events.emit(
            "worker.stopped" if is_expected else "worker.lost", worker.device,
            level=logging.INFO if is_expected else logging.WARNING, worker=worker.id,
            pid=worker.identity.pid, status="unknown" if status is None else status,
            cause=death.cause.value, **hang,
        )  # fmt: skip
        if death.cause is Cause.OOM:
            self._events.emit(
                "worker.oom", worker.device, level=logging.WARNING, worker=worker.id,
                pid=worker.identity.pid,
            )  # fmt: skip
        self._cgroups.remove(worker.id)
        for listener in self.listeners:
            listener(worker, death)
        if was_starting:
            self._start_failed(worker.release_path)
        self._starter.drop(process)

    def _start_failed(self, release_path: str) -> None:
        """Each release has its own back-off: a bad one must not keep ours from being started."""
        wait_s = self._backoffs[release_path].failed(time.monotonic(), random.random())
        self._no_spawn_before_s[release_path] = time.monotonic() + wait_s

    # -- machine -----------------------------------------------------------------------------
    def _step(
        self, worker: Worker, event: WorkerEvent, *, only_while: WorkerState | None = None
    ) -> tuple[WorkerAction, ...]:
        with self._changed:
            if only_while is not None and worker.state is not only_while:
                return ()
            actions = worker.step(event)
            self._changed.notify_all()
        self._carry_out(worker, actions)
        return actions

    def _carry_out(self, worker: Worker, actions: tuple[WorkerAction, ...]) -> None:
        for action in actions:
            if action is WorkerAction.TELL_DEVICES and worker.devices:
                self._hooks.on_worker_exited(worker)
            elif action is WorkerAction.REPLENISH:
                self.replenish_soon()
            elif action is WorkerAction.FORGET:
                self._database.later(tables.delete_worker(worker.id))
            elif action is WorkerAction.PREWARM:
                self._thread(f"warm-{worker.id}", self._warm, worker)
            elif action is WorkerAction.STOP:
                self._thread(f"stop-{worker.id}", self._stop, worker)

    # -- threads of one worker ---------------------------------------------------------------
    def _thread(self, name: str, call: Callable[..., None], *arguments: object) -> None:
        threading.Thread(target=call, args=arguments, name=name, daemon=True).start()

    def _attend(self, worker: Worker) -> None:
        """Waits for the first hello of a worker we started."""
        deadline = time.monotonic() + self._settings.start_timeout_s
        while not worker.has_exited.wait(CONNECT_RETRY_S):
            try:
                hello = worker.link.call("hello", self._settings.hello_timeout_s)
            except ObdError as error:
                if error.fields.get("code") == UNKNOWN_VERSION:
                    self._refuse(worker, str(error))
                    return
                if time.monotonic() < deadline:
                    continue
                self.fence(worker, f"no hello in {self._settings.start_timeout_s} s: {error}")
                return
            hello.close_fds()
            self._backoffs[worker.release_path].succeeded()
            worker.release = str(hello.body.get("release", ""))
            self._step(worker, WorkerEvent.ANSWERED, only_while=WorkerState.STARTING)
            self.replenish_soon()
            return

    def _refuse(self, worker: Worker, reason: str) -> None:
        """One that we can not talk with: it serves nothing, and no other of its release is tried
        until somebody asks for that release again."""
        self._events.emit(
            "worker.refused", level=logging.ERROR, worker=worker.id, pid=worker.identity.pid,
            release=worker.release_path, reason=reason,
        )  # fmt: skip
        with self._changed:
            self._refused[worker.release_path] = reason
            self._changed.notify_all()
        self.fence(worker, reason)

    def _warm(self, worker: Worker) -> None:
        self._warming.warm(worker)
        with self._changed:
            worker.is_warm = not worker.is_settled
            self._changed.notify_all()
        self._events.emit(
            "worker.ready", worker=worker.id, pid=worker.identity.pid,
            protocol=worker.link.version,
        )  # fmt: skip

    def _stop(self, worker: Worker) -> None:
        """Asks to stop; what does not follow is killed: it serves nothing any more."""
        with contextlib.suppress(ObdError):
            worker.link.call("stop", self._settings.hello_timeout_s)
        if not worker.has_exited.wait(self._settings.drain_timeout_s):
            self.fence(worker, "did not stop")
