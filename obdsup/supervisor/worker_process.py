"""A worker as a supervisord process: posix_spawn, no pipes, a pidfd in the poll loop, adoption.

All methods run in supervisord's loop thread.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from supervisor.options import ProcessConfig
from supervisor.process import Subprocess
from supervisor.states import ProcessStates

from obdsup.state import process as processes
from obdsup.state.process import ProcessIdentity

__all__ = ["PidfdDispatcher", "WorkerProcess", "WorkerProcessConfig"]

STOP_WAIT_S = 30
_NO_PIPES: dict[str, None] = {"stdin": None, "stdout": None, "stderr": None}
log = logging.getLogger("obdsup.supervisord")


class PidfdDispatcher:
    """Readable when the process has ended; calls ``on_exit`` once, at once, inside the loop."""

    closed = False

    def __init__(self, pidfd: int, on_exit: Callable[[], None]) -> None:
        self.pidfd = pidfd
        self._on_exit = on_exit

    def readable(self) -> bool:
        return not self.closed

    def writable(self) -> bool:
        return False

    def handle_read_event(self) -> None:
        if not self.closed and processes.has_exited(self.pidfd):
            self.closed = True
            self._on_exit()

    def handle_error(self) -> None:
        log.error("pidfd %d failed", self.pidfd)


class WorkerProcessConfig(ProcessConfig):  # type: ignore[misc]
    """The configuration of one worker.

    Args:
        options: the supervisor's ServerOptions.
        worker_id: also its name in supervisorctl.
        argv: the command.
        log_path: where its stdout and stderr go; supervisorctl tail reads it.
        on_spawned: called with the process when it was started (not when adopted).
        on_exited: called with the process and its status, or None when that is unknown.
        release_path: where its release lies, "" for the supervisor's own.
        environment: variables it gets beside the supervisor's.
    """

    def __init__(
        self,
        options: Any,
        worker_id: str,
        argv: list[str],
        log_path: Path,
        on_spawned: Callable[[WorkerProcess, int], None],
        on_exited: Callable[[WorkerProcess, int | None], None],
        release_path: str = "",
        environment: dict[str, str] | None = None,
    ) -> None:
        values: dict[str, Any] = dict.fromkeys(self.req_param_names)
        values.update(
            name=worker_id, command=" ".join(argv), priority=999, autostart=False,
            autorestart=False, startsecs=0, startretries=0, stopsignal=15, stopwaitsecs=STOP_WAIT_S,
            stopasgroup=False, killasgroup=False, exitcodes=[0], redirect_stderr=True,
            stdout_logfile=str(log_path), stdout_logfile_maxbytes=0, stdout_logfile_backups=0,
            stdout_capture_maxbytes=0, stdout_events_enabled=False, stdout_syslog=False,
            stderr_capture_maxbytes=0, stderr_events_enabled=False, stderr_syslog=False,
        )  # fmt: skip
        super().__init__(options, **values)
        self.argv = argv
        self.log_path = log_path
        self.on_spawned = on_spawned
        self.on_exited = on_exited
        self.release_path = release_path
        self.variables = environment or {}

    def make_process(self, group: Any = None) -> WorkerProcess:
        made = WorkerProcess(self)
        made.group = group
        return made

    def make_dispatchers(self, proc: Any) -> tuple[dict[int, Any], dict[str, None]]:
        """No pipes: the death of the supervisor must not be an EPIPE in a worker."""
        return {}, dict(_NO_PIPES)


class WorkerProcess(Subprocess):  # type: ignore[misc]
    """One worker process. Owns its pidfd from spawn or adoption until ``finish``."""

    config: WorkerProcessConfig
    pid: int
    exitstatus: int | None
    dispatchers: dict[int, Any]
    pipes: dict[str, None]
    pidfd = -1
    identity: ProcessIdentity | None = None

    def spawn(self) -> int | None:
        """Starts the process; returns its pid, or None (state BACKOFF) when that failed."""
        if self.pid:
            return None
        self.killing = False
        self.spawnerr = None
        self.exitstatus = None
        self.administrative_stop = self.system_stop = False
        self.laststart = time.time()
        self.change_state(ProcessStates.STARTING)
        try:
            pid = self._posix_spawn()
            identity = processes.identify(pid) or ProcessIdentity(pid, 0)
            pidfd = os.pidfd_open(pid)  # our own child: the pid can not be reused before we reap
        except OSError as error:
            self.record_spawnerr(f"can not start {self.config.argv[0]}: {error}")
            self.change_state(ProcessStates.FATAL)
            return None
        self._watch(identity, pidfd)
        self.config.on_spawned(self, pidfd)
        return pid

    def adopt(self, identity: ProcessIdentity, pidfd: int) -> None:
        """Takes over a process that an earlier supervisor started; owns ``pidfd`` from now on."""
        self.laststart = time.time()
        self.change_state(ProcessStates.STARTING)
        self._watch(identity, pidfd)

    def finish(self, pid: int, sts: int | None) -> None:
        """Notes the end; ``sts`` is a wait status, None when an adopted process ended."""
        self.laststop = time.time()
        self.delay = 0
        self.exitstatus = None if sts is None else os.waitstatus_to_exitcode(sts)
        was_asked, self.killing = self.killing, False
        self.dispatchers, self.pipes = {}, {}
        self.config.options.pidhistory.pop(pid, None)
        if was_asked or self.state == ProcessStates.STOPPING:
            self.change_state(ProcessStates.STOPPED)
        else:
            self.change_state(ProcessStates.EXITED, expected=self.exitstatus == 0)
        self.pid = 0  # after the event of the change, which names it
        os.close(self.pidfd)
        self.pidfd = -1
        self.config.on_exited(self, self.exitstatus)

    def drain(self) -> None:
        """Nothing to drain: there are no pipes, and the pidfd is not one."""

    def get_execv_args(self) -> tuple[str, list[str]]:
        return self.config.argv[0], list(self.config.argv)

    def _posix_spawn(self) -> int:
        """Fds 0 to 2 only (all of ours are close-on-exec), an own session, no signal mask."""
        log_flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        return os.posix_spawn(
            self.config.argv[0],
            self.config.argv,
            os.environ | self.config.variables,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(self.config.log_path), log_flags, 0o640),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigmask=[],
        )

    def _watch(self, identity: ProcessIdentity, pidfd: int) -> None:
        self.pid, self.identity, self.pidfd = identity.pid, identity, pidfd
        self.config.options.pidhistory[identity.pid] = self
        self.dispatchers = {pidfd: PidfdDispatcher(pidfd, self._on_pidfd)}
        self.change_state(ProcessStates.RUNNING)

    def _on_pidfd(self) -> None:
        """The process is dead: reap exactly it. ECHILD: adopted, its status went elsewhere."""
        pid = self.pid
        try:
            _, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            self.finish(pid, None)
            return
        self.finish(pid, status)
