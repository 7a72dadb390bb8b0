"""supervisord 4.3 inside this process: options without a configuration file, and our own loop.

What is kept: groups and processes with their states, XML-RPC and supervisorctl, the event bus.
What is replaced, and why, is in DESIGN.md ("supervisord embedded").
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import heapq
import itertools
import logging
import os
import signal
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from supervisor import events, rpcinterface
from supervisor.medusa import asyncore_25 as asyncore
from supervisor.options import ProcessGroupConfig, ServerOptions
from supervisor.process import EventListenerPool
from supervisor.states import SupervisorStates
from supervisor.supervisord import Supervisor

from obdsup.supervisor.rpc_namespace import Operations, make_namespace
from obdsup.supervisor.worker_process import PidfdDispatcher

__all__ = ["WORKERS_GROUP", "EmbeddedSupervisor", "make_options"]

WORKERS_GROUP = "workers"
POLL_LONGEST_S = 1.0
LEFT_AT_ONCE = 8  # of what can wait, in a turn that found nothing else to do
_PEERCRED = struct.Struct("3i")
log = logging.getLogger("obdsup.supervisord")


class _Logger:
    """The logger interface supervisord expects, over ``logging``."""

    handlers: list[object] = []
    _LEVELS = {
        "blather": 5, "trace": 5, "debug": logging.DEBUG, "info": logging.DEBUG,
        "warn": logging.INFO, "error": logging.ERROR, "critical": logging.INFO,
    }  # fmt: skip

    def __getattr__(self, name: str) -> Callable[..., None]:
        level = self._LEVELS[name]
        return lambda message, **fields: log.log(
            level, "%s", message % fields if fields else message
        )

    def close(self) -> None:
        """Nothing to close: the log is logging's."""

    def reopen(self) -> None:
        """Nothing to reopen."""


def make_options(socket_path: Path, release: str) -> ServerOptions:
    """ServerOptions with every attribute set by hand: no ini file is read, realize() never runs."""
    options = ServerOptions()
    options.nodaemon = True
    options.first = True
    options.test = False
    options.identifier = f"obdsup-{release}"
    options.logfile = None
    options.loglevel = logging.INFO
    options.minfds, options.minprocs = 1024, 200
    options.umask, options.directory, options.strip_ansi = 0o022, None, False
    options.uid = options.gid = None
    options.childlogdir = str(socket_path.parent)
    options.nocleanup = True
    options.silent = True
    options.logger = _Logger()
    options.mood = SupervisorStates.RUNNING
    options.process_group_configs = []
    options.serverurl = f"unix://{socket_path}"
    options.rpcinterface_factories = [
        ("supervisor", rpcinterface.make_main_rpcinterface, {}),
        ("obdsup", make_namespace, {}),
    ]
    options.serverurl = f"unix://{socket_path}"  # told to event listeners
    options.server_configs = [
        {
            "family": socket.AF_UNIX,
            "file": str(socket_path),
            "chmod": 0o600,
            "chown": (-1, -1),
            "username": None,
            "password": None,
            "section": "unix_http_server",
        }
    ]
    return options


class _Wakeup:
    """An fd in supervisord's poll loop that other threads and signals write to."""

    def __init__(self) -> None:
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)
        self.signal_fd = self._write.fileno()
        asyncore.socket_map[self._read.fileno()] = self

    def wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # full: it is awake already
            self._write.send(b"\0")

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def handle_read_event(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._read.recv(4096)

    def handle_error(self) -> None:
        log.exception("wakeup failed")


def _accept_known(listener: socket.socket) -> tuple[socket.socket, str] | None:
    """Takes a connection of root or of our own user, as the control socket does; another user's is
    closed: the mode of a socket is only as good as whoever may change it.

    Raises:
        OSError: as of accept.
    """
    try:
        connection, _ = listener.accept()
    except BlockingIOError:
        return None
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size)
    _, uid, _ = _PEERCRED.unpack(raw)
    if uid not in (0, os.geteuid()):
        connection.close()
        log.warning("supervisorctl: uid %d may not control this supervisor", uid)
        return None
    return connection, ""


class EmbeddedSupervisor(Supervisor):  # type: ignore[misc]
    """supervisord whose loop reaps before it makes transitions and survives bad handlers.

    Other threads hand it work with ``call_soon``; the loop itself never blocks but in poll.
    """

    def __init__(self, options: ServerOptions, on_tick: Callable[[float], None]) -> None:
        super().__init__(options)
        self._calls: deque[Callable[[], None]] = deque()
        self._left: deque[Callable[[], None]] = deque()
        self._timed: list[tuple[float, int, Callable[[], None]]] = []  # a heap; loop only
        self._numbers = itertools.count()
        self._wakeup = _Wakeup()
        self._on_tick = on_tick
        self._next_tick_s = 0.0
        self._nowhere = open(os.devnull, "w")  # noqa: SIM115 - held to the end; stderr may block
        self._loop_thread = 0
        self.exit_signal = 0
        self.stop_limit_s = 10.0  # from being told to stop to the end of the process
        self.on_hangup: Callable[[], None] = lambda: None  # called in the loop at SIGHUP
        self.operations: Operations = {}  # what RPC namespace obdsup calls; before ``prepare``

    def prepare(self) -> None:
        """Opens the XML-RPC socket, makes the group of workers, takes the signals."""
        config = ProcessGroupConfig(self.options, WORKERS_GROUP, 999, [])
        self.add_process_group(config)
        _remove_stale(Path(self.options.server_configs[0]["file"]))
        self.options.openhttpservers(self)
        for _, server in self.options.httpservers:
            server.accept = functools.partial(_accept_known, server.socket)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGHUP, self._on_hangup)
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        signal.set_wakeup_fd(self._wakeup.signal_fd, warn_on_full_buffer=False)

    def call_soon(self, call: Callable[[], None]) -> None:
        """Has the loop make a call; from any thread."""
        self._calls.append(call)
        if threading.get_ident() != self._loop_thread:
            self._wakeup.wake()

    def call_last(self, call: Callable[[], None]) -> None:
        """In the loop only: has it make a call when it has nothing better to do, one each turn
        otherwise. So the ends of many processes are all noticed before anything else is done."""
        self._left.append(call)

    def call_later(self, delay_s: float, call: Callable[[], None]) -> None:
        """In the loop only: has it make a call after a while."""
        due_s = time.monotonic() + delay_s
        heapq.heappush(self._timed, (due_s, next(self._numbers), call))

    def stop(self) -> None:
        """Ends runforever; workers stay as they are."""
        self.call_soon(self._leave)

    def runforever(self) -> None:
        """Runs until a signal or ``stop``; no exception of one process or handler ends it."""
        self._loop_thread = threading.get_ident()
        events.notify(events.SupervisorRunningEvent())
        try:
            while self.options.mood != SupervisorStates.SHUTDOWN:
                self._turn()
        finally:
            signal.set_wakeup_fd(-1)
            self.options.cleanup()

    def reap(self, once: bool = False, recursionguard: int = 0) -> None:
        """Called by RPC methods: looks at each process's own pidfd, never waitpid(-1), which would
        take the exit status of children that other parts wait for."""
        for dispatcher in self.get_process_map().values():
            if isinstance(dispatcher, PidfdDispatcher):  # an empty pipe would pass for a closed one
                self._guard(dispatcher.handle_read_event)

    def _turn(self) -> None:
        dispatchers: dict[int, Any] = dict(self.options.get_socket_map())
        dispatchers.update(self.get_process_map())
        for fd, dispatcher in dispatchers.items():
            self._guard(self._register, fd, dispatcher)
        readable, writable = self.options.poller.poll(self._longest_s())
        for fd in readable:
            self._handle(fd, dispatchers.get(fd), is_read=True)
        for fd in writable:
            self._handle(fd, dispatchers.get(fd), is_read=False)
        self._make_calls(1 if readable or writable else LEFT_AT_ONCE)
        # Deaths were handled above, by pidfd: transitions always see them.
        for group in list(self.process_groups.values()):
            if isinstance(group, EventListenerPool):
                self._guard(group.transition)  # hands out events, too
                continue
            for process in list(group.processes.values()):
                self._guard(process.transition)
        if self.options.mood == SupervisorStates.RESTARTING:
            log.warning("reload is not offered: stop the supervisor and start it again")
            self.options.mood = SupervisorStates.RUNNING
        self._guard(self.tick)
        now = time.monotonic()
        if now >= self._next_tick_s:
            self._next_tick_s = now + POLL_LONGEST_S
            self._guard(self._on_tick, now)

    def _longest_s(self) -> float:
        """How long the poll may wait."""
        if self._calls or self._left:
            return 0.0
        if not self._timed:
            return POLL_LONGEST_S
        return min(max(self._timed[0][0] - time.monotonic(), 0.0), POLL_LONGEST_S)

    def _make_calls(self, left_at_most: int) -> None:
        now = time.monotonic()
        while self._timed and self._timed[0][0] <= now:
            self._guard(heapq.heappop(self._timed)[2])
        while self._calls:
            self._guard(self._calls.popleft())
        for _ in range(min(left_at_most, len(self._left))):
            self._guard(self._left.popleft())

    def _register(self, fd: int, dispatcher: Any) -> None:
        poller = self.options.poller
        if dispatcher.readable():
            poller.register_readable(fd)
        if dispatcher.writable():
            poller.register_writable(fd)

    def _handle(self, fd: int, dispatcher: Any, *, is_read: bool) -> None:
        poller = self.options.poller
        forget = poller.unregister_readable if is_read else poller.unregister_writable
        if getattr(dispatcher, "closed", False):  # its process ended earlier in this turn
            dispatcher = None
        try:
            if dispatcher is not None:
                handle = dispatcher.handle_read_event if is_read else dispatcher.handle_write_event
                handle()
            wants = dispatcher is not None and (
                dispatcher.readable() if is_read else dispatcher.writable()
            )
        except Exception:
            log.exception("handler of fd %d failed", fd)
            wants = False
            if dispatcher is not None:
                self._guard(dispatcher.handle_error)
        if not wants:
            with contextlib.suppress(KeyError, OSError):  # the handler closed it
                forget(fd)

    def _guard(self, call: Callable[..., object], *arguments: object) -> None:
        try:
            call(*arguments)
        except asyncore.ExitNow:
            self.options.mood = SupervisorStates.SHUTDOWN
        except Exception:
            log.exception("supervisor loop: %r failed", call)

    def _on_signal(self, number: int, _frame: object) -> None:
        self.exit_signal = number
        self._leave()

    def _on_hangup(self, _number: int, _frame: object) -> None:
        self._calls.append(lambda: self.on_hangup())

    def _leave(self) -> None:
        """The end comes in time whatever is stuck, a disk, a log pipe or a thread that holds the
        interpreter: the watchdog is C. Workers serve on, and what was not written is found again.
        """
        faulthandler.dump_traceback_later(self.stop_limit_s, exit=True, file=self._nowhere)
        self.options.mood = SupervisorStates.SHUTDOWN


def _remove_stale(path: Path) -> None:
    """A socket left by a dead supervisor; we hold the supervisor's lock, so nobody listens."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
