"""The demo itself, short: it passes, and it takes down what it put up, also when interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.rig.process import processes_naming

REPO = Path(__file__).resolve().parents[2]
SHORT = ["--seed", "1", "--provider", "fuse", "--worker-every", "1", "--supervisor-every", "4"]

pytestmark = [pytest.mark.host, pytest.mark.chaos]


class DemoRun:
    """One demo in a process of its own; its output is read line by line."""

    def __init__(self, result: Path, seconds: float, both_every: float) -> None:
        arguments = [*SHORT, "--seconds", str(seconds), "--both-every", str(both_every)]
        command = [sys.executable, "-m", "chaos.demo", *arguments, "--json", str(result)]
        self.process = subprocess.Popen(
            command, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.lines: list[str] = []

    def read_until(self, word: str) -> bool:
        """Reads on until a line has the word; False when the output ends before."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if word and word in line:
                return True
        return False

    def finish(self) -> int:
        """Reads the rest and returns the exit code."""
        self.read_until("")
        return self.process.wait()

    def output(self) -> str:
        return "".join(self.lines)

    def left_behind(self) -> list[str]:
        """What is still there of this run: folders, and what is mounted or attached in them."""
        mark = f"obdsup-demo-{self.process.pid}-"
        folders = [
            path
            for parent in ("/run", "/dev/shm", "/tmp", "/var/tmp")
            for path in Path(parent).glob(f"{mark}*")
        ]
        left = [str(path) for path in folders]
        left += [f"process {p.pid}" for folder in folders for p in processes_naming(folder)]
        left += [line for line in Path("/proc/mounts").read_text().splitlines() if mark in line]
        for loop in Path("/sys/block").glob("loop*/loop/backing_file"):
            left += [str(loop)] if mark in loop.read_text() else []
        return left


@pytest.fixture
def result(tmp_path: Path) -> Path:
    return tmp_path / "demo.json"


@pytest.fixture
def runs() -> Iterator[list[DemoRun]]:
    """The runs a test started: interrupted at its end if they still go on."""
    runs: list[DemoRun] = []
    yield runs
    for run in runs:
        if run.process.poll() is None:
            run.process.send_signal(signal.SIGINT)
            run.finish()
        assert run.process.stdout is not None
        run.process.stdout.close()


def test_short_demo_passes_and_leaves_nothing(result: Path, runs: list[DemoRun]) -> None:
    run = DemoRun(result, seconds=9, both_every=8)
    runs.append(run)
    assert run.finish() == 0, run.output()
    data = json.loads(result.read_text())
    assert all(data["kills"][kind] >= 1 for kind in ("worker", "supervisor", "both")), data
    assert (data["io_errors"], data["lost_or_stale"], data["container_restarts"]) == (0, 0, 0)
    assert data["recovered_in_flight"] >= 1
    assert data["commands"] > 0
    assert data["redis"]["sets"] > 0
    assert (data["provider"], data["kernel"]) == ("fuse", os.uname().release)
    assert run.left_behind() == []


def test_interrupted_demo_takes_everything_down(result: Path, runs: list[DemoRun]) -> None:
    run = DemoRun(result, seconds=60, both_every=40)
    runs.append(run)
    assert run.read_until("killed worker"), run.output()
    run.process.send_signal(signal.SIGINT)
    assert run.finish() == 130, run.output()
    assert run.left_behind() == []
