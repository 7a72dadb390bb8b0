"""The installation under test: one supervisor with its workers, in folders of this run's own.

Devices are made and removed by the command line. What is asked often (is a standby ready?) goes
over the control socket instead: a Python start per question would take processor time from what is
measured.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from chaos.rig.leftovers import take_away_below
from chaos.rig.problem import REPO, Overdue, RigError, run, say, venv_program
from chaos.rig.process import Process, processes_naming
from obdsup.errors import ObdError
from obdsup.state.control import SOCKET_NAME, ControlClient

__all__ = ["Node", "wait_until"]

FIRST_PAUSE_S = 0.005
LONGEST_PAUSE_S = 0.1
DIES_S = 5.0  # a process that was sent SIGKILL


def wait_until(
    predicate: Callable[[], bool],
    timeout_s: float,
    what: str,
    longest_pause_s: float = LONGEST_PAUSE_S,
) -> None:
    """Waits until it is true.

    Raises:
        Overdue: not within the time; names what was waited for.
    """
    deadline = time.monotonic() + timeout_s
    pause_s = FIRST_PAUSE_S
    while not predicate():
        if time.monotonic() > deadline:
            raise Overdue(f"{what}: not within {timeout_s:.0f} s")
        time.sleep(pause_s)  # grows: asking all the time would slow down what is waited for
        pause_s = min(pause_s * 1.5, longest_pause_s)


class Node:
    """One supervisor and all that it starts.

    Args:
        run_dir: made by the caller, empty, named by no process of anyone else.
        state_dir: likewise.
        patience_s: how long one step may take on this machine.
        standbys: warm standbys the supervisor keeps ready.
        python_path: folder of another build of the package, or None for the installed one.
        environment: added to that of every process.
        options: further ones for the supervisor.
    """

    def __init__(
        self,
        run_dir: Path,
        state_dir: Path,
        provider: str,
        patience_s: float,
        *,
        standbys: int = 1,
        python_path: Path | None = None,
        environment: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
    ) -> None:
        self.run_dir = run_dir
        self.state_dir = state_dir
        self.provider = provider
        self.patience_s = patience_s
        self._standbys = standbys
        self._options = tuple(options)
        self._python_path = python_path
        self._environment = dict(environment or {})
        if python_path is not None:
            self._environment["PYTHONPATH"] = str(python_path)
            self._environment["PYTHONSAFEPATH"] = "1"  # else the working directory comes first
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._replacing = threading.RLock()
        self._control = ControlClient(str(run_dir / SOCKET_NAME), timeout_s=patience_s)

    @property
    def package(self) -> Path:
        """Where the package lies that is run."""
        root = self._python_path or REPO
        return root / "obdsup"

    def start_supervisor(self) -> None:
        """Starts a supervisor, as systemd would; returns before it is ready."""
        options = ["--provider", self.provider, "--standbys", str(self._standbys)]
        command = [*self.command(), "supervisor", *options, *self._options]
        with (self.run_dir / "supervisor.log").open("ab") as log:
            self._supervisor = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self._environment},
                start_new_session=True,
            )

    def supervisor_process(self) -> Process | None:
        """The supervisor if it runs; None when it ended or was never started."""
        return Process.of(self._supervisor.pid) if self._supervisor else None

    def supervisor(self) -> Process:
        """The running supervisor.

        Raises:
            RigError: it ended without having been killed by us.
        """
        process = self.supervisor_process()
        if process is None:
            raise RigError(f"the supervisor ended: {self.log_end()}")
        return process

    @contextlib.contextmanager
    def replacing_supervisor(self) -> Iterator[Process]:
        """Gives the supervisor to whoever kills it in the block; then another one is started.

        One at a time: others wait, and find the one that was started.

        Raises:
            RigError: it ended without having been killed by us.
        """
        with self._replacing:
            process = self.supervisor()
            try:
                yield process
            finally:
                if process.wait_gone(DIES_S):
                    self.reap_supervisor()
                    self.start_supervisor()

    def restart_supervisor(self) -> None:
        """Starts the next one where the last one was killed; it is reaped first."""
        with self._replacing:
            if self.supervisor_process() is None:
                self.reap_supervisor()
                self.start_supervisor()

    def replace_supervisor(self) -> None:
        """SIGKILL of the supervisor, and the next one is started."""
        with self.replacing_supervisor() as process:
            process.send(signal.SIGKILL)

    def reap_supervisor(self) -> None:
        """Waits for a supervisor that was killed."""
        if self._supervisor is not None:
            self._supervisor.wait()
            self._supervisor = None

    def is_answering(self) -> bool:
        """Whether the supervisor answers on its socket; False while it starts."""
        try:
            self.ask("status")
        except (ObdError, OSError):
            self._require_supervisor()
            return False
        return True

    def has_standby(self) -> bool:
        """Whether a warm standby is ready to take over."""
        return self.standbys_ready() > 0

    def standbys_ready(self) -> int:
        """How many warm standbys are ready; 0 while the supervisor starts."""
        try:
            return int(self.ask("status").get("standbys_ready", 0))
        except (ObdError, OSError):
            self._require_supervisor()
            return 0

    def _require_supervisor(self) -> None:
        """As ``supervisor``, when nobody is replacing it just now."""
        with self._replacing:
            self.supervisor()

    def workers(self, state: str) -> list[Process]:
        """The worker processes in a state ("standby", "serving", …) as the supervisor sees them.

        Raises:
            ObdError: the supervisor does not answer.
        """
        rows = self.ask("status")["workers"]
        found = [Process.of(row["pid"]) for row in rows if row["state"] == state]
        return [process for process in found if process is not None]

    def device_row(self, name: str) -> dict[str, Any] | None:
        """What the supervisor says of a device; None when it has none of that name.

        Raises:
            ObdError: the supervisor does not answer.
        """
        rows: list[dict[str, Any]] = self.ask("device.list")
        return next((row for row in rows if row["name"] == name), None)

    def ask(self, operation: str, **fields: Any) -> Any:
        """One question over the control socket; raises as ControlClient does."""
        return self._control.call(operation, **fields)

    def obdsup(self, *arguments: str) -> Any:
        """Runs one obdsup command and returns what it printed as JSON.

        Raises:
            RigError: it failed; says with what.
        """
        command = [*self.command(), "--json", *arguments]
        what = f"obdsup {' '.join(arguments[:2])}"
        output = run(command, what=what, env=self._environment, timeout_s=self.patience_s * 4)
        try:
            return json.loads(output) if output.strip() else None
        except ValueError as error:
            raise RigError(f"{what}: not JSON: {output[:200]!r}") from error

    def log_end(self) -> str:
        """The last lines the supervisor wrote."""
        path = self.run_dir / "supervisor.log"
        return path.read_text(errors="replace")[-1500:].strip() if path.is_file() else ""

    def remove_device(self, name: str) -> None:
        """Removes the device; starts a supervisor for it when there is none. Fine when it is gone.

        Raises:
            RigError: it could not be removed.
        """
        with self._replacing:
            if self._supervisor is None or Process.of(self._supervisor.pid) is None:
                self.reap_supervisor()
                self.start_supervisor()
        wait_until(self.is_answering, self.patience_s, "the supervisor that removes the device")
        if any(row.get("name") == name for row in self.ask("device.list")):
            self.obdsup("device", "remove", name)

    def clean_up(self) -> None:
        """Ends every process of this installation and takes its mounts and loop devices away.

        Raises:
            RigError: something is left behind; says what.
        """
        if self._supervisor is not None:
            self._end([p for p in [Process.of(self._supervisor.pid)] if p])
            self.reap_supervisor()
        self._end(processes_naming(self.run_dir))
        take_away_below(self.run_dir)
        left = processes_naming(self.run_dir)
        if left:
            raise RigError(f"processes that do not end: {', '.join(str(p.pid) for p in left)}")
        for folder in (self.run_dir, self.state_dir):
            shutil.rmtree(folder, ignore_errors=True)

    def _end(self, processes: list[Process]) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in processes:
                process.send(number)
            deadline = time.monotonic() + 10
            processes = [
                p for p in processes if not p.wait_gone(max(0.0, deadline - time.monotonic()))
            ]
            if processes and number is signal.SIGTERM:
                say(f"still there after SIGTERM: {', '.join(str(p.pid) for p in processes)}")

    def command(self) -> list[str]:
        """The start of an obdsup command line for this installation; needs ``environment``."""
        program = [venv_program("obdsup")]
        if self._python_path is not None:  # the installed script would find the installed package
            program = [sys.executable, "-m", "obdsup.cli"]
        return [*program, "--run-dir", str(self.run_dir), "--state-dir", str(self.state_dir)]

    def environment(self) -> dict[str, str]:
        """What is to be added to the environment of the processes of this installation."""
        return dict(self._environment)
