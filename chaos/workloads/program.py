"""A load program as the campaign holds it: started, told to stop and to verify, read, ended."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from chaos.rig.latency import LatencySlice
from chaos.rig.problem import REPO, RigError
from chaos.workloads.base import Findings
from chaos.workloads.recorder import LatencyFile, read_findings

__all__ = ["LoadProgram"]

END_TIMEOUT_S = 20.0
START_FACTOR = 4  # a start is many steps


class LoadProgram:
    """One process of ``python -m MODULE FOLDER ARGUMENTS``, see ``chaos.workloads.load``.

    Args:
        module: its package, run by its ``__main__``.
        folder: made here; the program's log, findings and latency.
        arguments: what the load needs to know; goes through JSON.
        patience_s: bound of one step of it.
    """

    def __init__(
        self, module: str, folder: Path, arguments: Mapping[str, object], patience_s: float
    ) -> None:
        self._module = module
        self._folder = folder
        self._arguments = arguments
        self._patience_s = patience_s
        self._process: subprocess.Popen[bytes] | None = None
        self._answers = b""
        self._latency = LatencyFile(folder / "latency")
        self._lock = threading.Lock()
        self._is_stopped = False

    def start(self) -> None:
        """Starts it and waits for its first operation.

        Raises:
            RigError: it ended, or nothing was answered within the time.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", self._module, str(self._folder)]
        with (self._folder / "program.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, json.dumps(dict(self._arguments))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=REPO,
                start_new_session=True,
            )
        self._await("running", self._patience_s * START_FACTOR)

    def stop(self) -> None:
        """Lets it end the operations under way. Fine to call again.

        Raises:
            RigError: they do not end within the patience, or the program died.
        """
        if self._process is None or self._is_stopped:
            return
        self._order("stop")
        self._await("stopped", self._patience_s)
        self._is_stopped = True

    def verify(self, timeout_s: float) -> None:
        """Lets it read everything back; its findings are in ``findings`` then.

        Raises:
            RigError: it did not end within the time, or the program died.
        """
        self._order("verify")
        self._await("verified", timeout_s)

    def slices(self) -> list[LatencySlice]:
        """Latency so far; any thread, any time."""
        with self._lock:
            return self._latency.slices()

    def operations(self) -> int:
        """Checked operations so far; any thread, any time."""
        return sum(part.operation_cnt for part in self.slices())

    def findings(self) -> Findings:
        """What it found so far."""
        return read_findings(self._folder / "findings")

    def log_end(self) -> str:
        """The last lines it wrote."""
        path = self._folder / "program.log"
        return path.read_text(errors="replace")[-1500:].strip() if path.is_file() else ""

    def close(self) -> None:
        """Ends the process and those it started in its session. Fine to call again.

        Raises:
            RigError: it does not even end by SIGKILL: its I/O hangs.
        """
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin
        assert process.stdout
        process.stdin.close()
        try:
            has_ended = _has_ended(process.pid, END_TIMEOUT_S)
            # Also those it started; as long as it was not waited for, the group is surely its own.
            os.killpg(process.pid, signal.SIGKILL)
            if not has_ended and not _has_ended(process.pid, END_TIMEOUT_S):
                raise RigError(f"{self._module} (pid {process.pid}) does not end: I/O hangs")
            process.wait()
        finally:
            process.stdout.close()

    def _order(self, word: str) -> None:
        if self._process is None or self._process.stdin is None:
            raise RigError(f"{self._module} is not running")
        try:
            self._process.stdin.write(f"{word}\n".encode())
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise RigError(f"{self._module} died: {self.log_end()}") from error

    def _await(self, word: str, timeout_s: float) -> None:
        assert self._process
        assert self._process.stdout
        deadline = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while True:
                line, is_complete, rest = self._answers.partition(b"\n")
                if is_complete:
                    self._answers = rest
                    if line.decode() == word:
                        return
                    continue
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise RigError(f"{self._module}: not {word} within {timeout_s:.0f} s")
                data = os.read(self._process.stdout.fileno(), 4096)
                if not data:
                    raise RigError(f"{self._module} died: {self.log_end()}")
                self._answers += data


def _has_ended(pid: int, timeout_s: float) -> bool:
    """Whether a child of ours is dead within the time; it stays a zombie."""
    fd = os.pidfd_open(pid)
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(fd, selectors.EVENT_READ)
            return bool(selector.select(timeout_s))
    finally:
        os.close(fd)
