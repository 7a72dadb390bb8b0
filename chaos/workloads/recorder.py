"""What a load program writes while it runs and how the campaign reads it: two growing files.

``latency``: one line per 20 ms in which an operation ended, five decimal numbers: begin of the
slice, operations that ended in it, their durations' sum, begin and end of the longest of them; all
CLOCK_MONOTONIC nanoseconds. ``findings``: one JSON object per line, ``kind`` (a list of
``Findings``) and ``line``. Files, not pipes: a reader that is late or gone holds no program up.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from chaos.rig.latency import SLICE_NS, LatencySlice, Operation
from chaos.workloads.base import Findings

__all__ = ["LatencyFile", "Recorder", "read_findings"]

WRITE_EVERY_NS = 500_000_000
MAX_FINDINGS = 1000  # per program: a device that is gone would fill the disk otherwise


class Recorder:
    """The writing side; of one thread.

    Args:
        folder: existing; ``latency`` and ``findings`` are made in it.
    """

    def __init__(self, folder: Path) -> None:
        self.operation_cnt = 0
        self.finding_cnt = 0
        self._latency = (folder / "latency").open("a")
        self._findings = (folder / "findings").open("a")
        self._slice = LatencySlice(0, 0, 0, Operation(0, 0))
        self._written_ns = 0

    def operation(self, begun_ns: int, ended_ns: int) -> None:
        """Notes one checked operation; those of one thread come in order of their ends."""
        self.operation_cnt += 1
        begin_ns = ended_ns - ended_ns % SLICE_NS
        old = self._slice
        if begin_ns != old.begin_ns:
            self._write_slice()
            old = LatencySlice(begin_ns, 0, 0, Operation(begun_ns, ended_ns))
        worst = max(old.worst, Operation(begun_ns, ended_ns), key=lambda o: o.ended_ns - o.begun_ns)
        total_ns = old.total_ns + ended_ns - begun_ns
        self._slice = LatencySlice(begin_ns, old.operation_cnt + 1, total_ns, worst)
        if ended_ns - self._written_ns > WRITE_EVERY_NS:
            self._latency.flush()
            self._written_ns = ended_ns

    def found(self, kind: str, line: str) -> None:
        """Notes one finding; ``kind`` is the name of a list of ``Findings``. Written at once."""
        self.finding_cnt += 1
        if self.finding_cnt <= MAX_FINDINGS:
            self._findings.write(json.dumps({"kind": kind, "line": line}) + "\n")
            self._findings.flush()

    def flush(self) -> None:
        """Writes what is held back, the slice that is not over included."""
        self._write_slice()
        self._latency.flush()
        self._written_ns = time.monotonic_ns()

    def close(self) -> None:
        """Writes everything and closes the files."""
        self.flush()
        self._latency.close()
        self._findings.close()

    def _write_slice(self) -> None:
        begin_ns, operation_cnt, total_ns, worst = self._slice
        if operation_cnt:
            line = f"{begin_ns} {operation_cnt} {total_ns} {worst.begun_ns} {worst.ended_ns}\n"
            self._latency.write(line)
        self._slice = LatencySlice(0, 0, 0, Operation(0, 0))


class LatencyFile:
    """The reading side of ``latency``: remembers what it read, reads only what is new."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_bytes = 0
        self._slices: list[LatencySlice] = []

    def slices(self) -> list[LatencySlice]:
        """All complete lines so far, in order; empty while there is no file."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._read_bytes)
                new = file.read()
        except FileNotFoundError:
            return []
        complete = new[: new.rfind(b"\n") + 1]
        self._read_bytes += len(complete)
        for line in complete.splitlines():
            begin_ns, operation_cnt, total_ns, *worst = map(int, line.split())
            self._slices.append(LatencySlice(begin_ns, operation_cnt, total_ns, Operation(*worst)))
        return list(self._slices)


def read_findings(path: Path) -> Findings:
    """What the program found so far; clean while there is no file."""
    findings = Findings()
    text = path.read_text() if path.is_file() else ""
    for line in text[: text.rfind("\n") + 1].splitlines():
        found = json.loads(line)
        getattr(findings, found["kind"]).append(found["line"])
    return findings
