"""A ringd of its own for one test, as a child process in the foreground."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from obdsup.supervisor.provider.ringd import RINGD_PATH, Ringd
from tests.conftest import eventually
from tests.ringd.fake_worker import FakeWorker

DISK_BYTES = 4 << 20


class LoadRing:
    """``obdsup-ringd load`` with a fake or a real worker; ``close`` ends it."""

    def __init__(self, directory: Path, *options: str, disk_bytes: int = DISK_BYTES) -> None:
        self.disk = bytearray(disk_bytes)
        self.ringd = Ringd(directory / "ring.sock")
        self.log_path = directory / "ringd.log"
        command = [str(RINGD_PATH), "load", "--name", "test", "--size", str(disk_bytes)]
        command += ["--socket", str(self.ringd.socket_path), "--log", str(self.log_path)]
        command += ["--drain-seconds", "30", *options]
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        )
        eventually(self.ringd.is_alive)
        self._workers: list[FakeWorker] = []

    def worker(self) -> FakeWorker:
        worker = FakeWorker(self.ringd.open_ring(), self.disk)
        self._workers.append(worker)
        return worker

    def report(self, timeout_s: float = 60.0) -> dict[str, Any]:
        """Waits for the end and returns the report; ``good`` and the exit code must agree."""
        stdout, _ = self.process.communicate(timeout=timeout_s)
        report = json.loads(stdout)
        assert isinstance(report, dict)
        assert self.process.returncode == (0 if report["good"] else 1)
        return report

    def finish(self) -> dict[str, Any]:
        """Ends generating, waits for the read-back."""
        self.ringd.finish()
        return self.report()

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def close(self) -> None:
        for worker in self._workers:
            worker.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
