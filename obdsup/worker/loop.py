"""The worker's loop: control socket, jobs, signals. It sleeps in poll(2) while I/O runs.

Every change of a device goes through ``machine.step``. Slow work runs in threads that end with
their job and report through ``_ends`` and the wake-up pipe; the engine has a thread of its own.
"""

from __future__ import annotations

import _thread
import contextlib
import functools
import os
import select
import signal
import time
from collections import deque

import obdsup
from obdsup.errors import (
    AlreadyServed,
    ControlError,
    NativeError,
    ObdError,
    StateError,
    WorkerLost,
)
from obdsup.state import messages
from obdsup.state.messages import MAX_FDS, Packet
from obdsup.worker import device as jobs
from obdsup.worker import listener, log, process, requests
from obdsup.worker.device import Device, JobEnd
from obdsup.worker.machine import Action, Event, State, step
from obdsup.worker.native import Engine, code_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from obdsup.worker.listener import Connection
    from obdsup.worker.requests import Request

__all__ = ["Loop"]

FOLLOW_INTERVAL_S = 0.1
HEALTH_INTERVAL_S = 1.0
DRAIN_AT_EXIT_MS = 10_000
MAX_CONNECTIONS = 128
THREAD_STACK_BYTES = 512 * 1024


class Loop:
    """One worker. Owns the listening socket, the connections, the devices and the engine.

    Raises:
        AlreadyServed: a living worker listens on the same path.
        ConfigError: the socket can not be made there.
    """

    def __init__(self, worker_id: str, socket_path: str) -> None:
        self._id = worker_id
        self._socket_path = socket_path
        self._listener = listener.listen(socket_path)
        self._start_time_ticks = process.start_time_ticks()
        self._engine = Engine()
        self._devices: dict[str, Device] = {}
        self._connections: dict[int, Connection] = {}
        self._poll = select.poll()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        # (what to call in the loop's thread with the result of a job)
        self._ends: deque[Callable[[], None]] = deque()
        self._is_following = False
        self._next_follow_s = 0.0
        self._next_health_s = 0.0
        self._terms = 0
        self._terms_seen = 0
        self._exit_deadline_s: float | None = None
        self._exit_code: int | None = None

    def run(self) -> int:
        """Serves until ``stop`` or SIGTERM; returns the exit code."""
        _thread.stack_size(THREAD_STACK_BYTES)
        self._poll.register(self._wake_read, select.POLLIN)
        self._poll.register(self._listener, select.POLLIN)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._on_sigterm)
        for number in (signal.SIGINT, signal.SIGHUP):  # a terminal's business, not ours
            signal.signal(number, signal.SIG_IGN)
        self._thread(self._engine.run, self._on_engine_end)
        log.event("worker.started", id=self._id, pid=os.getpid(), release=obdsup.__version__)
        while self._exit_code is None:
            self._turn()
        log.event("worker.stopped", id=self._id, code=self._exit_code)
        self._listener.close()
        with contextlib.suppress(OSError):
            os.unlink(self._socket_path)
        return self._exit_code

    # -- one turn ----------------------------------------------------------------------------

    def _turn(self) -> None:
        for fd, _ in self._poll.poll(self._timeout_ms()):
            if fd == self._wake_read:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_read, 4096)
            elif fd == self._listener.fileno():
                self._accept()
            else:
                self._serve_connection(self._connections[fd])
        while self._ends:
            self._ends.popleft()()
        if self._terms != self._terms_seen:
            self._on_term()
        now = time.monotonic()
        if now >= self._next_follow_s:
            self._follow(now)
        if now >= self._next_health_s:
            self._check_health(now)
        if self._exit_deadline_s is not None:
            self._finish_exit(now)

    def _timeout_ms(self) -> int | None:
        """Until the next thing to do by the clock; None when a fd must wake us."""
        if self._exit_deadline_s is not None or self._followed():
            return int(FOLLOW_INTERVAL_S * 1000)
        if any(device.state is State.SERVING for device in self._devices.values()):
            return int(HEALTH_INTERVAL_S * 1000)
        return None

    def _on_sigterm(self, _number: int, _frame: object) -> None:
        self._terms += 1

    def _thread(self, work: Callable[[], object], on_end: Callable[[object], None]) -> None:
        """Runs work() in a thread, then on_end(result) in the loop's thread.

        A bug in work() is raised in the loop: the worker stops loudly, a successor takes over.
        ``Thread.start`` would wait for the new thread to run: two switches more in a take-over.
        """

        def body() -> None:
            try:
                result = work()
            except Exception as bug:  # noqa: BLE001 - raised again by the loop
                self._ends.append(functools.partial(_raise, bug))
            else:
                self._ends.append(functools.partial(on_end, result))
            with contextlib.suppress(BlockingIOError):  # full: it is awake anyway
                os.write(self._wake_write, b"j")

        _thread.start_new_thread(body, ())

    def _on_engine_end(self, code: object) -> None:
        log.event("engine.ended", log.ERROR, reason=code_name(int(str(code))))
        self._exit_code = NativeError.exit_code

    # -- connections -------------------------------------------------------------------------

    def _accept(self) -> None:
        connection = listener.accept(self._listener)
        if connection is None:
            return
        if len(self._connections) >= MAX_CONNECTIONS:
            connection.refuse(None, ControlError(f"more than {MAX_CONNECTIONS} connections"))
            connection.sock.close()
            return
        self._connections[connection.sock.fileno()] = connection
        self._poll.register(connection.sock, select.POLLIN)

    def _serve_connection(self, connection: Connection) -> None:
        number: object = None
        try:
            packet = connection.receive()
            if packet is None:
                self._close(connection)
                return
            try:
                number = packet.body.get("id")
                self._carry_out(connection, requests.parse(packet))
            except ObdError:
                packet.close_fds()
                raise
        except ObdError as error:
            connection.refuse(number, error)
            if connection.is_closed:
                self._close(connection)

    def _close(self, connection: Connection) -> None:
        fd = connection.sock.fileno()
        connection.is_closed = True
        if not connection.is_busy:
            self._poll.unregister(fd)
        del self._connections[fd]
        connection.sock.close()

    def _set_busy(self, connection: Connection, *, is_busy: bool) -> None:
        if connection.is_busy == is_busy:
            return
        connection.is_busy = is_busy
        if is_busy:
            self._poll.unregister(connection.sock)
        else:
            self._poll.register(connection.sock, select.POLLIN)

    def _reply(self, owner: object, request: Request, end: JobEnd) -> None:
        """Answers a request at its end, whoever carried it out; closes the fds it still owns."""
        request.packet.close_fds()
        connection = owner
        if not isinstance(connection, listener.Connection):
            return
        if end.error is not None:
            connection.refuse(request.number, end.error)
        else:
            connection.answer(request.number, end.answer)
        self._set_busy(connection, is_busy=False)
        if connection.is_closed:
            self._close(connection)

    # -- requests ----------------------------------------------------------------------------

    def _carry_out(self, connection: Connection, request: Request) -> None:
        if request.op == "hello":
            messages.agree(request.packet.body)
            body, fds = self._hello(request.device)
            connection.answer(request.number, body, fds)
        elif request.op == "stats":
            self._stats(connection, request)
        elif request.op == "read_config":
            self._set_busy(connection, is_busy=True)
            self._thread(
                lambda: jobs.read_config(request.config),
                lambda end: self._reply(connection, request, end),  # type: ignore[arg-type]
            )
        elif request.op == "stop":
            self._stop()
            connection.answer(request.number, {})
        elif request.of_others:
            self._forget_others()
            connection.answer(request.number, {})
        elif request.op == "serve" and self._exit_deadline_s is not None:
            raise WorkerLost(f"worker {self._id} is stopping", hint="ask another one")
        else:
            self._ask(connection, request)
        if connection.is_closed and connection.sock.fileno() in self._connections:
            self._close(connection)

    def _hello(self, only: str) -> tuple[dict[str, object], list[int]]:
        rows: list[dict[str, object]] = []
        fds: list[int] = []
        for device in self._devices.values():
            if only and device.name != only:
                continue
            if device.state in (State.SERVING, State.LOST, State.DROPPING, State.DRAINING):
                own = device.fds if device.state in (State.SERVING, State.DRAINING) else []
                if len(fds) + len(own) > MAX_FDS:
                    own = []  # ask again with this device's name
                fds += own
                ring = {
                    "kind": device.kind,
                    "map_bytes": device.map_bytes,
                    "fd_count": max(len(own) - 1, 0),
                }
                rows.append(
                    {
                        "name": device.name,
                        "generation": device.generation,
                        "state": device.state.value,
                        "failed": device.failed or None,
                        "ring": ring,
                        **(_told(device) if only else {}),
                    }
                )
        warm = [d.name for d in self._devices.values() if d.state is State.WARM]
        changing = [d.name for d in self._devices.values() if _is_changing(d)]
        body: dict[str, object] = {
            "pid": os.getpid(),
            "start_time": self._start_time_ticks,
            "worker_id": self._id,
            "release": obdsup.__version__,
            **messages.announcement(),
            "devices": rows,
            "prewarmed": warm,
            "changing": changing,
        }
        return body, fds

    def _stats(self, connection: Connection, request: Request) -> None:
        asked = [
            device
            for device in self._devices.values()
            if (not request.device or device.name == request.device)
            and device.state is not State.ABSENT
        ]

        def answer(rows: object) -> None:
            self._reply(connection, request, JobEnd(Event.CLOSED, answer={"devices": rows}))

        self._set_busy(connection, is_busy=True)
        self._thread(lambda: [jobs.stat(device, self._engine) for device in asked], answer)

    def _stop(self) -> None:
        for device in self._devices.values():
            if device.state in (State.SERVING, State.ATTACHING, State.DRAINING):
                raise StateError(
                    f"worker {self._id} serves {device.name}", hint="drain it first", code="SERVING"
                )
        self._exit_code = 0

    def _forget_others(self) -> None:
        """Closes the images of all devices that are not served here, in the background."""
        for device in list(self._devices.values()):
            if device.state in (State.WARM, State.OPENING):
                self._ask(None, requests.parse(Packet({"op": "forget", "device": device.name})))

    def _ask(self, owner: object, request: Request) -> None:
        """A request that changes a device."""
        device = self._devices.get(request.device)
        if device is None:
            device = self._devices[request.device] = Device(request.device)
        event = _EVENTS[request.op]
        if request.op == "prewarm" and device.files not in (None, request.image):
            event = Event.REPLACE_ASKED
        if isinstance(owner, listener.Connection):
            self._set_busy(owner, is_busy=True)
        state, action = step(device.state, event)
        if action is Action.PUT_OFF:
            device.waiting.append((owner, request))
        elif action is Action.ANSWER:
            answer = device.describe_image() if request.op == "prewarm" else {}
            self._enter(device, state)
            self._reply(owner, request, JobEnd(event, answer=answer))
        elif action is Action.REFUSE_SERVED:
            error: ObdError = AlreadyServed(
                f"device {device.name} is served by this worker, generation {device.generation}"
            )
            self._reply(owner, request, JobEnd(event, error))
        elif action is Action.REFUSE_NOT_SERVED:
            error = StateError(
                f"device {device.name} is not served by this worker",
                code=device.failed or "NOT_SERVED",
            )
            self._reply(owner, request, JobEnd(event, error))
        else:
            device.job_request = (owner, request)
            self._start_job(device, state, action)

    def _start_job(self, device: Device, state: State, action: Action) -> None:
        request = device.job_request[1] if device.job_request else None
        engine = self._engine

        def work() -> JobEnd:
            if action is Action.CLOSE:
                return jobs.close(device)
            if action is Action.DROP:
                return jobs.drop(device, engine)
            assert request is not None
            if action is Action.DETACH:
                return jobs.detach(device, engine, request.timeout_ms, is_last=request.is_last)
            if action is Action.ATTACH:
                return jobs.attach(device, engine, request)
            assert action is Action.OPEN
            assert request.image is not None
            return jobs.open_image(device, request.image)

        self._enter(device, state)
        self._thread(work, lambda end: self._on_job_end(device, end))

    def _on_job_end(self, device: Device, end: object) -> None:
        assert isinstance(end, JobEnd)
        state, action = step(device.state, end.event)
        self._enter(device, state, end.error)
        job_request, device.job_request = device.job_request, None
        if action is Action.FINISH and job_request is not None:
            self._reply(*job_request, end)
        if device.is_index_new:
            device.is_index_new = False
            self._thread(lambda: jobs.keep_index(device), lambda _: None)
        waiting, device.waiting = device.waiting, deque()
        for owner, request in waiting:
            self._ask(owner, request)
        if device.state is State.ABSENT and not device.waiting:
            self._devices.pop(device.name, None)

    def _enter(self, device: Device, state: State, error: ObdError | None = None) -> None:
        if state is device.state and error is None:
            return
        device.state = state
        log.event(
            f"device.{state.name.lower()}",
            log.WARNING if error is not None or state is State.LOST else log.INFO,
            dev=device.name,
            gen=device.generation or None,
            reason=error or device.failed or None,
        )

    # -- by the clock ------------------------------------------------------------------------

    def _followed(self) -> list[Device]:
        return [d for d in self._devices.values() if d.state is State.WARM and d.is_writable]

    def _follow(self, now: float) -> None:
        self._next_follow_s = now + FOLLOW_INTERVAL_S
        devices = self._followed()
        if devices and not self._is_following:
            self._is_following = True
            self._thread(lambda: [(d, jobs.follow(d)) for d in devices], self._on_followed)

    def _on_followed(self, results: object) -> None:
        self._is_following = False
        assert isinstance(results, list)
        for device, error in results:
            if error is not None:
                state, action = step(device.state, Event.FOLLOW_FAILED)
                log.event("image.follow_failed", log.WARNING, dev=device.name, reason=error)
                if action is Action.CLOSE:
                    self._start_job(device, state, action)

    def _check_health(self, now: float) -> None:
        """Devices the engine had to drop: the ring's fds must not stay open here."""
        self._next_health_s = now + HEALTH_INTERVAL_S
        for device in self._devices.values():
            if device.state is State.SERVING:
                code, _ = self._engine.stat(device.device_id)
                if code:
                    device.failed = code_name(code)
                    log.event("device.dropped", log.ERROR, dev=device.name, reason=device.failed)
                    self._start_job(device, *step(device.state, Event.DROPPED))

    # -- leaving -----------------------------------------------------------------------------

    def _on_term(self) -> None:
        self._terms_seen = self._terms
        if self._terms > 1:
            self._exit_code = WorkerLost.exit_code
            return
        log.event("worker.draining", id=self._id)
        self._exit_deadline_s = time.monotonic() + DRAIN_AT_EXIT_MS / 1000
        for device in list(self._devices.values()):
            if device.state is State.SERVING:
                body = {"op": "drain", "device": device.name, "timeout_ms": DRAIN_AT_EXIT_MS}
                self._ask(None, requests.parse(Packet(body)))

    def _finish_exit(self, now: float) -> None:
        serving = [d.name for d in self._devices.values() if d.state in _HELD]
        if not serving:
            self._exit_code = 0
        elif self._exit_deadline_s is not None and now >= self._exit_deadline_s:
            # What is in flight is in the journal: the next worker finishes it.
            log.event("worker.gave_up", log.WARNING, devices=",".join(serving))
            self._exit_code = WorkerLost.exit_code


_HELD = {State.SERVING, State.ATTACHING, State.DRAINING, State.DROPPING}
_EVENTS = {
    "prewarm": Event.PREWARM_ASKED,
    "forget": Event.FORGET_ASKED,
    "serve": Event.SERVE_ASKED,
    "drain": Event.DRAIN_ASKED,
}


def _told(device: Device) -> dict[str, object]:
    """What a supervisor that lost its row can make it anew from."""
    return {
        "image": device.files.to_json() if device.files is not None else None,
        "spec": device.spec,
    }


def _is_changing(device: Device) -> bool:
    """An order to serve or to drain is being carried out, or waits for another job to end."""
    if device.state in (State.ATTACHING, State.DRAINING):
        return True
    return any(request.op in ("serve", "drain") for _, request in device.waiting)


def _raise(bug: Exception) -> None:
    raise bug
