"""A whole obdsup in a directory of its own: supervisor, workers, ringd, driven by the command line.

Everything the tests of the recovery table need: start and kill processes by pid, and leave nothing
behind. Knows the product only through its command line, signals and /proc.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from chaos.rig.leftovers import take_away_below
from tests.conftest import eventually

OBDSUP = str(Path(sys.executable).parent / "obdsup")


class CommandFailed(Exception):
    """An obdsup command exited non-zero; ``error`` is what it printed with --json."""

    def __init__(self, args: tuple[str, ...], code: int, stdout: str, stderr: str) -> None:
        super().__init__(f"obdsup {' '.join(args)} exited {code}: {stdout}{stderr}")
        self.code = code
        self.stdout = stdout
        self.stderr = stderr


def is_alive(pid: int) -> bool:
    """Whether the process exists and is not a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rsplit(")", 1)[1].split()[0] != "Z"


class Service:
    """One supervisor with its workers; ``close`` ends them all and removes what they made."""

    def __init__(
        self,
        root: Path,
        provider: str,
        options: tuple[str, ...] = (),
        environment: dict[str, str] | None = None,
    ) -> None:
        self.root = root
        self.options = options  # of the supervisor
        self.environment = environment or {}  # of the supervisor and its workers
        self.run_dir = root / "run"
        self.state_dir = root / "state"
        self.provider = provider
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._log = (root / "supervisor.log").open("ab")

    # -- the command line -------------------------------------------------------------------------
    def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        dirs = ["--run-dir", str(self.run_dir), "--state-dir", str(self.state_dir)]
        return subprocess.run(
            [OBDSUP, *dirs, "--json", *args], capture_output=True, text=True, timeout=120
        )

    def call(self, *args: str) -> Any:
        done = self.run(*args)
        if done.returncode != 0:
            raise CommandFailed(args, done.returncode, done.stdout, done.stderr)
        return json.loads(done.stdout)

    def show(self, name: str) -> dict[str, Any]:
        shown = self.call("device", "show", name)
        assert isinstance(shown, dict)
        return shown

    # -- processes --------------------------------------------------------------------------------
    def start(self) -> int:
        """Starts the supervisor and waits until it answers; returns its pid."""
        dirs = ["--run-dir", str(self.run_dir), "--state-dir", str(self.state_dir)]
        self._supervisor = subprocess.Popen(
            [OBDSUP, *dirs, "supervisor", "--provider", self.provider, *self.options],
            env={**os.environ, **self.environment},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        eventually(lambda: self.run("status").returncode == 0, 60)
        return self._supervisor.pid

    @property
    def supervisor_pid(self) -> int:
        assert self._supervisor is not None
        return self._supervisor.pid

    def kill_supervisor(self) -> None:
        """SIGKILL, and waits until it is gone."""
        assert self._supervisor is not None
        self._supervisor.kill()
        self._supervisor.wait()

    def worker_pid(self, name: str) -> int:
        return int(self.show(name)["worker"]["pid"])

    def wait_for_standby(self) -> None:
        eventually(lambda: self.call("status")["standbys_ready"] >= 1, 60)

    def log_text(self) -> str:
        return (self.root / "supervisor.log").read_text(errors="replace")

    def close(self) -> None:
        """Removes the devices, ends every process that was started under the run directory."""
        if self._supervisor is not None and self._supervisor.poll() is None:
            for row in self._devices():
                self.run("device", "remove", str(row["name"]))
            self._supervisor.kill()
            self._supervisor.wait()
        for pid in self._own_pids():
            os.kill(pid, signal.SIGKILL)
            eventually(lambda pid=pid: not is_alive(pid), 30)
        take_away_below(self.root)  # of a device that could not be removed
        self._log.close()

    def _devices(self) -> list[dict[str, Any]]:
        done = self.run("device", "list")
        listed = json.loads(done.stdout) if done.returncode == 0 else []
        return list(listed)

    def _own_pids(self) -> list[int]:
        """Processes whose command line names our run directory."""
        mark = os.fsencode(str(self.run_dir))
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                if mark in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except (FileNotFoundError, ProcessLookupError):
                continue
        return [pid for pid in found if is_alive(pid)]
