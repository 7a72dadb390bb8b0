"""The workload: obdsup-sectors on a raw device, judged by stamps in each sector.

Two processes: one writes and checks, another one reads back against the ledger the first left
behind. So what was acknowledged is proven to be on the device, not in anybody's memory.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import obdsup.state
from chaos.rig.latency import LatencySlice
from chaos.rig.node import wait_until
from chaos.rig.problem import RigError, run
from chaos.workloads.base import Findings
from chaos.workloads.ground import Ground
from chaos.workloads.recorder import LatencyFile

__all__ = ["SECTORS_PROGRAM", "Sectors", "findings_of"]

SECTORS_PROGRAM = Path(obdsup.state.__file__).parents[1] / "_bin" / "obdsup-sectors"
SPAN_BYTES = 32 << 20
QUEUE_DEPTH = 8
# Writes fill an append-only layer: about 1.5 MB/s at this rate and these lengths.
MOST_IOPS = 1000
MIX = ("--read-percent", "70", "--discard-percent", "2", "--flush-percent", "1")
MAX_SECTORS = 64
VERIFY_FACTOR = 10
END_TIMEOUT_S = 20.0
SECTOR_BYTES = 512
SHOWN_PADDING = 1000  # findings without words of their own that are still lines of their own
KINDS = {
    "errors": "io_errors",
    "lost": "lost",
    "stale": "stale",
    "misplaced": "misplaced",
    "corrupt": "corrupt",
}


class Sectors:
    """Stamped sectors over the first MiB of the device; whatever was there is overwritten."""

    name = "sectors"

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._folder = ground.scratch / self.name
        self._ledger = self._folder / "ledger"
        self._latency = LatencyFile(self._folder / "latency")
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_started = False

    def start(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        ground = self._ground
        command = [*self._command(self._folder / "load.json"), "--no-read-back", *MIX]
        command += ["--seed", str(ground.seed), "--qd", str(QUEUE_DEPTH)]
        command += ["--max-sectors", str(MAX_SECTORS), "--iops", str(self._iops())]
        command += ["--span", str(self._span_bytes()), "--latency", str(self._folder / "latency")]
        command += ["--drain-seconds", str(max(1, round(ground.patience_s)))]
        with (self._folder / "load.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, str(ground.device)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )
        self._is_started = True
        wait_until(self._is_answering, ground.patience_s, f"first operation on {ground.device}")

    def operations(self) -> int:
        return sum(part.operation_cnt for part in self.slices())

    def slices(self) -> Sequence[LatencySlice]:
        with self._lock:
            return self._latency.slices()

    def stop(self) -> None:
        process = self._process
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(self._ground.patience_s * 2)
        except subprocess.TimeoutExpired as error:
            raise RigError(f"{self.name}: I/O on {self._ground.device} does not end") from error
        self._process = None
        if code not in (0, 1):
            raise RigError(f"{self.name}: ended with {code}: {self._log_end()}")

    def verify(self) -> Findings:
        if not self._is_started:
            raise RigError(f"{self.name} was not started")
        self.stop()
        found = findings_of(self._folder / "load.json")
        command = [*self._command(self._folder / "verify.json"), "--verify-only"]
        run(
            [*command, str(self._ground.device)],
            what=f"reading {self._ground.device} back",
            timeout_s=self._ground.patience_s * VERIFY_FACTOR,
            ok=(0, 1),
        )
        found.add(findings_of(self._folder / "verify.json"))
        return found

    def close(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        try:
            process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            raise RigError(f"{self.name} (pid {process.pid}) does not end: I/O hangs") from error

    def _command(self, report: Path) -> list[str]:
        ground = self._ground
        command = [str(SECTORS_PROGRAM), "--ledger", str(self._ledger), "--json", str(report)]
        command += ["--name", ground.device.name]
        return [*command, "--journal", str(ground.journal)] if ground.journal else command

    def _iops(self) -> int:
        pause_s = self._ground.pause_s
        return max(1, min(MOST_IOPS, round(QUEUE_DEPTH / pause_s))) if pause_s else MOST_IOPS

    def _span_bytes(self) -> int:
        try:
            with self._ground.device.open("rb") as file:
                size_bytes = file.seek(0, os.SEEK_END)
        except OSError as error:
            raise RigError(f"{self._ground.device} can not be opened: {error}") from error
        return min(SPAN_BYTES, size_bytes) // SECTOR_BYTES * SECTOR_BYTES

    def _is_answering(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            raise RigError(f"{self.name} ended: {self._log_end()}")
        return self.operations() > 0

    def _log_end(self) -> str:
        path = self._folder / "load.log"
        return path.read_text(errors="replace")[-1500:].strip() if path.is_file() else ""


def findings_of(path: Path) -> Findings:
    """What a report of obdsup-sectors says: a line per finding.

    Of each kind the first ones come with place, expected and found; the rest are counted.

    Raises:
        RigError: there is no report, or it is not one.
    """
    try:
        report = json.loads(path.read_text())
        return _findings(report)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RigError(f"the report {path}: {error!r}") from error


def _findings(report: dict[str, Any]) -> Findings:
    found = Findings()
    for finding in report["findings"]:
        getattr(found, KINDS.get(finding["kind"], "io_errors")).append(finding["text"])
    for name, lines in KINDS.items():
        missing = min(report[name], SHOWN_PADDING) - len(getattr(found, lines))
        line = f"device {report['name']}: one of {report[name]} {name}, without its place"
        getattr(found, lines).extend([line] * missing)
    if report["unfinished"]:
        found.io_errors.append(f"{report['unfinished']} operations did not end")
    elif not report["complete"]:
        found.io_errors.append("the run did not come to its end")
    return found
