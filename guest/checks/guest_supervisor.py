"""A supervisor of the command line in the guest, for checks: start, stop, kill, ask."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from obdsup.errors import ControlError
from obdsup.state.control import ControlClient

__all__ = ["GuestSupervisor", "eventually"]

_START_S = 300.0
_WORTH_SAYING_S = 1.0


def eventually(
    predicate: Callable[[], object], timeout_s: float, what: str, *, pause_s: float = 0.1
) -> Any:
    """Waits until the predicate gives something true; says so when that takes a while.

    Raises:
        AssertionError: it did not in time.
    """
    begin_s = time.monotonic()
    while not (value := predicate()):
        waited_s = time.monotonic() - begin_s
        assert waited_s < timeout_s, f"not within {timeout_s:.0f} s: {what}"
        time.sleep(pause_s)
    waited_s = time.monotonic() - begin_s
    if waited_s > _WORTH_SAYING_S:
        print(f"    {waited_s:.1f} s: {what[:80]}", flush=True)
    return value


class GuestSupervisor:
    """State and sockets below ``root``; its workers outlive it."""

    def __init__(self, root: Path, *options: str) -> None:
        self._options = options
        self.root = root
        self.run_dir, self.state_dir = root / "run", root / "state"
        self.client = ControlClient(str(self.run_dir / "obdsup.sock"), timeout_s=300)
        self._process: subprocess.Popen[bytes] | None = None
        self._log_path = root / "supervisor.log"

    @property
    def directories(self) -> list[str]:
        return ["--run-dir", str(self.run_dir), "--state-dir", str(self.state_dir)]

    def start(self) -> None:
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "obdsup.supervisor", *self.directories, *self._options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        eventually(self._answers, _START_S, "the supervisor answers")

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log_text()
        try:
            return bool(self.client.call("status")["pid"] == self._process.pid)
        except ControlError:
            return False

    def stop(self) -> None:
        """SIGTERM; workers serve on."""
        assert self._process is not None
        self._process.terminate()
        assert self._process.wait(60) == 0, self.log_text()

    def kill(self) -> None:
        """SIGKILL; workers serve on."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Ends it and its workers."""
        if self._process is None:
            return
        if self._process.poll() is None:
            pids = [int(worker["pid"]) for worker in self.ask("status")["workers"]]
            self.stop()
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def ask(self, op: str, **fields: object) -> Any:
        return self.client.call(op, on_progress=None, **fields)

    def command(self, *words: str) -> tuple[int, Any]:
        """The command line's exit code and JSON."""
        done = subprocess.run(
            [sys.executable, "-m", "obdsup.cli", *self.directories, "--json", *words],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        text = done.stdout.strip()
        try:
            return done.returncode, json.JSONDecoder().raw_decode(text)[0] if text else None
        except ValueError as error:
            raise AssertionError(f"{words}: {text}{done.stderr}") from error

    def names(self) -> list[str]:
        return [str(row["name"]) for row in self.ask("device.list")]

    def show(self, name: str) -> dict[str, Any]:
        return dict(self.ask("device.show", name=name))

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [row for row in self.ask("events", since=0) if row["event"] == kind]

    def log_text(self) -> str:
        return self._log_path.read_text(errors="replace")
