"""The supervisor replaces itself in place: exec of another release, or of its own, as one pid.

Kept: the pid, so children stay children and their exit statuses known; the lock, the control
socket with whoever waits in its backlog, rings and journals (held_fds). Everything else is read
again, as after any other death of a supervisor: what a re-exec cuts off, adoption settles.

Order: probe the new program (``--check``, a child) → no new connections → wait until nothing is
being changed → answer → exec. Until the exec any failure leaves this supervisor as it was.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import obdsup
from obdsup.errors import ConfigError, ObdError, StateError
from obdsup.supervisor.control_server import ControlServer, Operation
from obdsup.supervisor.embedding import EmbeddedSupervisor
from obdsup.supervisor.event_log import EventLog
from obdsup.supervisor.held_fds import HeldFds
from obdsup.supervisor.service_machine import ServiceState

__all__ = ["CHANGING", "Reexec", "ReexecParts", "reap_the_dead"]

CHECK_TIMEOUT_S = 120.0  # a starved host; nothing else waits for it
QUIET_TIMEOUT_S = 10.0
QUIET_POLL_S = 0.005
# Operations that a re-exec may cut off: ourselves, and what may be followed for ever.
MAY_BE_CUT = frozenset({"reexec", "events"})
_S = ServiceState
CHANGING = frozenset(
    {_S.ATTACHING, _S.RECOVERING, _S.RESETTING, _S.HANDING_OVER, _S.DRAINING}
)  # a worker carries out an order: cut off, it would have to be killed


def reap_the_dead() -> int:
    """Reaps children that ended around the exec; before any child of this program is started."""
    count = 0
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            count += 1
    return count


def command_of(path: str) -> list[str]:
    """The command that becomes the supervisor: of the release at ``path``, or "" for this one.

    A release that is reached through a link (``current``) is the one the link names now.
    """
    if not path:
        return [sys.executable, *sys.orig_argv[1:]]
    interpreter = Path(path) / "bin" / "python"
    if not os.access(interpreter, os.X_OK):
        raise ConfigError(
            f"{path} is no release: no {interpreter}",
            hint="give the virtual environment that a release was installed into",
        )
    return [str(interpreter), "-P", "-m", "obdsup.supervisor", *sys.argv[1:]]


def check(command: list[str]) -> dict[str, Any]:
    """Has a child start as far as a supervisor can without taking anything; returns what it says.

    Raises:
        ConfigError: it can not be the supervisor, and why.
    """
    what = f"{command[0]} can not become the supervisor"
    try:
        done = subprocess.run(
            [*command, "--check"], capture_output=True, text=True, timeout=CHECK_TIMEOUT_S,
            check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        found = json.loads(done.stdout) if done.returncode == 0 else None
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"{what}: {error}", hint="this one goes on") from error
    if not isinstance(found, dict):
        last = done.stderr.strip().rsplit("\n", 1)[-1]
        raise ConfigError(
            f"{what}: {last or f'exit code {done.returncode}'}", hint="this one goes on"
        )
    return found


@dataclass(frozen=True, slots=True)
class ReexecParts:
    """What a re-exec needs of the others. ``unsettled``: names of devices that are being changed;
    ``flush``: writes what is queued for state.db; ``reloading``: tells systemd;
    ``end_listeners``: event listeners are the next program's to start."""

    loop: EmbeddedSupervisor
    control: Callable[[], ControlServer]  # made after us: our operation is one of its
    held: HeldFds
    events: EventLog
    unsettled: Callable[[], list[str]]
    flush: Callable[[], None]
    reloading: Callable[[], None]
    end_listeners: Callable[[], None]


class Reexec:
    """At most one at a time."""

    def __init__(self, parts: ReexecParts) -> None:
        self._parts = parts
        self._busy = threading.Lock()

    def operations(self) -> dict[str, Operation]:
        """``reexec {path?}``: answers when the exec is about to happen; the successor has the same
        pid and a later ``started`` in ``status``."""
        return {"reexec": lambda request, progress: self.ask(request.get("path", ""))}

    def on_hangup(self) -> None:
        """SIGHUP: the release at the path this one was started from; called in the loop."""

        def attempt() -> None:
            try:
                self.ask("")
            except ObdError as error:
                self._failed(str(error))

        threading.Thread(target=attempt, name="reexec-asked", daemon=True).start()

    def ask(self, path: object) -> dict[str, object]:
        """Prepares, and has the loop exec once this call's caller was answered.

        Raises:
            ConfigError: there is no usable release. StateError: not now.
        """
        if not isinstance(path, str):
            raise ConfigError(f"path {path!r} is not a text")
        if not self._busy.acquire(blocking=False):
            raise StateError("a re-exec is under way", hint="wait for it to end")
        try:
            command = command_of(path)
            found = check(command)
            self._parts.control().pause()
            self._wait_until_quiet()
        except BaseException:
            self._parts.control().go_on()
            self._busy.release()
            raise
        threading.Thread(target=self._go, args=(command, found), name="reexec", daemon=True).start()
        return {"pid": os.getpid(), "from": obdsup.__version__, "to": found.get("version")}

    def _wait_until_quiet(self) -> None:
        deadline = time.monotonic() + QUIET_TIMEOUT_S
        while True:
            busy = sorted(self._parts.control().active() - MAY_BE_CUT)
            busy += self._parts.unsettled()
            if not busy:
                return
            if time.monotonic() >= deadline:
                raise StateError(
                    f"not re-executed: {', '.join(busy)} under way for {QUIET_TIMEOUT_S:.0f} s",
                    hint="try again when it is over",
                )
            time.sleep(QUIET_POLL_S)

    def _go(self, command: list[str], found: dict[str, Any]) -> None:
        """Lets the answer out, then the loop does it: there no worker is being started."""
        deadline = time.monotonic() + QUIET_TIMEOUT_S
        while "reexec" in self._parts.control().active() and time.monotonic() < deadline:
            time.sleep(QUIET_POLL_S)
        self._parts.events.emit(
            "supervisor.reexec", pid=os.getpid(), release=obdsup.__version__,
            to=found.get("version"), interpreter=command[0],
        )  # fmt: skip
        self._parts.flush()
        self._parts.loop.call_soon(lambda: self._exec(command))

    def _exec(self, command: list[str]) -> None:
        held, environment = self._parts.held, dict(os.environ)
        self._parts.reloading()
        self._parts.end_listeners()
        previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # not deadly to what starts up
        held.pass_on(environment)
        try:
            os.execve(command[0], command, environment)
        except OSError as error:
            held.exec_failed(environment)
            signal.signal(signal.SIGHUP, previous)
            self._parts.control().go_on()
            self._busy.release()
            self._failed(f"{command[0]}: {error.strerror}")

    def _failed(self, reason: str) -> None:
        self._parts.events.emit("supervisor.reexec", level=logging.ERROR, failed=reason)
