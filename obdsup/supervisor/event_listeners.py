"""``--event-listener EVENTS=COMMAND``: supervisord event listener pools in this process.

supervisord's own protocol, pools and states, so that superlance's listeners run unchanged; only
starting a process is ours (posix_spawn, its end seen by pidfd), as it is for workers. A listener
that hangs keeps one event and its pool's buffer; when that is full the oldest events go. One that
dies is started again. Neither is waited for.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from supervisor import events as supervisord_events
from supervisor.datatypes import RestartUnconditionally
from supervisor.dispatchers import default_handler
from supervisor.options import EventListenerConfig, EventListenerPoolConfig, ProcessException
from supervisor.process import Subprocess
from supervisor.states import ProcessStates

from obdsup.errors import ConfigError
from obdsup.supervisor.embedding import EmbeddedSupervisor
from obdsup.supervisor.event_log import Event, EventLog
from obdsup.supervisor.supervisord_events import event_types, supervisord_event
from obdsup.supervisor.worker_process import PidfdDispatcher

__all__ = ["EventListeners", "parse_listener"]

BUFFERED_EVENTS = 1000
LOG_MAX_BYTES = 1 << 20
END_PATIENCE_S = 0.5
RETRIES = 1_000_000  # each pause is a second longer than the one before: never given up


def parse_listener(text: str) -> tuple[list[type], str]:
    """``EVENTS=COMMAND``: the event types and the command.

    Raises:
        ConfigError: it is not of that form, or an event has no such name.
    """
    names, is_there, command = text.partition("=")
    if not is_there or not command.strip():
        raise ConfigError(
            f"event listener {text!r} is not EVENTS=COMMAND",
            hint="e.g. 'PROCESS_STATE_EXITED,OBDSUP_TAKEOVER=/usr/local/bin/listener --option'",
        )
    known = event_types()
    found = []
    for name in names.split(","):
        if name.strip() not in known:
            raise ConfigError(
                f"event listener {text!r}: there is no event {name.strip()!r}",
                hint=f"one of {', '.join(sorted(known))}",
            )
        found.append(known[name.strip()])
    return found, command.strip()


class EventListeners:
    """The listeners' pools. Made before the loop runs.

    Args:
        texts: what was given on the command line.

    Raises:
        ConfigError: one of them is wrong.
    """

    def __init__(
        self, texts: tuple[str, ...], loop: EmbeddedSupervisor, events: EventLog, log_dir: Path
    ) -> None:
        self._loop = loop
        self._names: list[str] = []
        self._configs = [self._pool(text, log_dir) for text in texts]
        if texts:
            events.listeners.append(self._pass_on)

    def start(self) -> None:
        """Adds the pools; the loop starts their processes."""
        for config in self._configs:
            self._loop.add_process_group(config)

    def close(self) -> None:
        """Asks all of them to end; in the loop's thread, when it does not turn any more."""
        for name in self._names:
            group = self._loop.process_groups.get(name)
            if group is not None:
                group.stop_all()

    def end_before_exec(self) -> None:
        """Ends all of them and reaps them: the next program would not know whose children they are.
        In the loop's thread, which waits for up to a second. Should the exec fail, the loop starts
        them again.
        """
        for number, patience_s in ((signal.SIGTERM, END_PATIENCE_S), (signal.SIGKILL, 1.0)):
            deadline = time.monotonic() + patience_s
            for process in self._running():
                os.kill(process.pid, number)
            while self._running() and time.monotonic() < deadline:
                time.sleep(0.005)
                self._loop.reap()

    def _running(self) -> list[Any]:
        groups = [self._loop.process_groups.get(name) for name in self._names]
        return [p for group in groups if group for p in group.processes.values() if p.pid]

    def _pass_on(self, event: Event) -> None:
        self._loop.call_soon(lambda: supervisord_events.notify(supervisord_event(event)))

    def _pool(self, text: str, log_dir: Path) -> Any:
        types, command = parse_listener(text)
        base = name = Path(command.split()[0]).name
        while name in self._names:
            name = f"{base}-{sum(n.startswith(base) for n in self._names) + 1}"
        self._names.append(name)
        options = self._loop.options
        config = _ListenerConfig(options, name, command, log_dir / f"listener-{name}.log")
        return EventListenerPoolConfig(
            options, name, 100, [config], BUFFERED_EVENTS, types, default_handler
        )


class _ListenerConfig(EventListenerConfig):  # type: ignore[misc]
    def __init__(self, options: Any, name: str, command: str, log_path: Path) -> None:
        values: dict[str, Any] = dict.fromkeys(self.req_param_names)
        values.update(
            name=name, command=command, priority=100, autostart=True,
            autorestart=RestartUnconditionally, startsecs=1, startretries=RETRIES, stopsignal=15,
            stopwaitsecs=10, stopasgroup=False, killasgroup=False, exitcodes=[0],
            redirect_stderr=False, stdout_logfile_maxbytes=0, stdout_logfile_backups=0,
            stdout_capture_maxbytes=0, stdout_events_enabled=False, stdout_syslog=False,
            stderr_logfile=str(log_path), stderr_logfile_maxbytes=LOG_MAX_BYTES,
            stderr_logfile_backups=0, stderr_capture_maxbytes=0, stderr_events_enabled=False,
            stderr_syslog=False,
        )  # fmt: skip
        super().__init__(options, **values)

    def make_process(self, group: Any = None) -> _Listener:
        made = _Listener(self)
        made.group = group
        return made


class _Listener(Subprocess):  # type: ignore[misc]
    """One listener process; all methods run in the loop."""

    config: _ListenerConfig
    pid: int
    dispatchers: dict[int, Any]
    pipes: dict[str, int]
    pidfd = -1

    def spawn(self) -> int | None:
        """Starts it; None (state BACKOFF) when that failed."""
        if self.pid:
            return None
        self.killing = self.administrative_stop = self.system_stop = False
        self.spawnerr = self.exitstatus = None
        self.laststart = time.time()
        self.change_state(ProcessStates.STARTING)
        options = self.config.options
        try:
            path, argv = self.get_execv_args()
            self.dispatchers, self.pipes = self.config.make_dispatchers(self)
            self.pid = self._posix_spawn(path, argv)
            self.pidfd = os.pidfd_open(self.pid)  # our child: not reused before we reap it
        except (ProcessException, OSError) as error:
            options.close_parent_pipes(self.pipes)
            self.dispatchers, self.pipes = {}, {}
            self.record_spawnerr(f"can not start {self.config.command}: {error}")
            self.change_state(ProcessStates.BACKOFF)
            return None
        finally:
            options.close_child_pipes(self.pipes)
        self.dispatchers[self.pidfd] = PidfdDispatcher(self.pidfd, self._on_pidfd)
        self.delay = self.laststart + self.config.startsecs
        return self.pid

    def finish(self, pid: int, sts: int) -> None:
        """Notes the end. Nothing reads its fds afterwards: their numbers are soon another's."""
        dispatchers = self.dispatchers
        super().finish(pid, sts)
        for dispatcher in dispatchers.values():
            dispatcher.closed = True
        os.close(self.pidfd)
        self.pidfd = -1

    def _on_pidfd(self) -> None:
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        self.finish(pid, status)

    def _posix_spawn(self, path: str, argv: list[str]) -> int:
        """Fds 0 to 2 only (all of ours are close-on-exec), an own session."""
        environment = {
            **os.environ, "SUPERVISOR_ENABLED": "1",
            "SUPERVISOR_SERVER_URL": self.config.options.serverurl,
            "SUPERVISOR_PROCESS_NAME": self.config.name,
            "SUPERVISOR_GROUP_NAME": self.group.config.name,
        }  # fmt: skip
        ends = (self.pipes["child_stdin"], self.pipes["child_stdout"], self.pipes["child_stderr"])
        return os.posix_spawn(
            path, argv, environment,
            file_actions=[(os.POSIX_SPAWN_DUP2, end, fd) for fd, end in enumerate(ends)],
            setsid=True, setsigmask=[],
        )  # fmt: skip
