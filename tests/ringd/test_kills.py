"""The real engine on a real ring: killed at named points and at any moment, and cheating.

The engine's process is native/tests/prog_serve: an image in a plain file, so that what is lost is
the ring's or the journal's fault.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPO, eventually
from tests.ringd.ring import LoadRing

pytestmark = [pytest.mark.integration, pytest.mark.native]

DISK_BYTES = 32 << 20


@pytest.fixture(scope="module")
def prog_serve() -> Path:
    """The program, built with its crash points."""
    native = REPO / "native"
    program = native / "build" / "release" / "prog_serve"
    subprocess.run(["make", "-s", "-C", str(native), "build/release/prog_serve"], check=True)
    return program


class Engines:
    """One ring and the engine processes that serve it, one after the other."""

    def __init__(self, directory: Path, program: Path, *options: str) -> None:
        self.ring = LoadRing(directory, *options, disk_bytes=DISK_BYTES)
        self._directory = directory
        self._program = program
        self._generation = 0
        self._first_line = ""
        self.recovered = 0  # commands found in flight, all take-overs together
        self._process: subprocess.Popen[str] | None = None

    @property
    def process(self) -> subprocess.Popen[str]:
        assert self._process is not None
        return self._process

    def serve(self, *options: str) -> None:
        """Starts the next engine; returns when it serves."""
        self._generation += 1
        command = [str(self._program), "--ringd", str(self.ring.ringd.socket_path)]
        command += ["--journal", str(self._directory / "inflight")]
        command += ["--disk-bytes", str(DISK_BYTES), "--generation", str(self._generation)]
        command += ["--mode", "fresh" if self._generation == 1 else "recover"]
        self._process = subprocess.Popen(
            [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert self._process.stdout is not None
        line = self._first_line = self._process.stdout.readline()
        found = re.search(r"recovered=(\d+)", line)
        self.recovered += int(found[1]) if found else 0
        # One with a crash point on its way there may die before it says so.
        assert line.startswith("serving ") or "--crash-at" in options, line

    def wait_dead(self) -> tuple[int, str]:
        """Exit status and all it said."""
        said, _ = self.process.communicate(timeout=30)
        return self.process.returncode, self._first_line + said

    def kill(self) -> None:
        self.process.kill()
        self.wait_dead()

    def completed(self) -> int:
        return self.ring.ringd.stat().number("completed")

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()
        self.ring.close()


@pytest.fixture
def engines(tmp_path: Path, prog_serve: Path) -> Iterator[Engines]:
    served = Engines(tmp_path, prog_serve)
    yield served
    served.close()


def assert_good(engines: Engines) -> None:
    report = engines.ring.finish()
    assert report["good"], engines.ring.log()
    assert report["resets"] == 0


def test_nothing_is_lost_when_the_engine_is_killed_again_and_again(engines: Engines) -> None:
    for turn in range(30):
        engines.serve()
        reached = engines.completed() + 100 + 37 * (turn % 7)
        eventually(lambda reached=reached: engines.completed() >= reached, 30)
        engines.kill()
    engines.serve()
    assert engines.recovered > 0  # the kills hit commands that were picked up
    assert_good(engines)


@pytest.mark.parametrize(
    "point",
    [
        "pickup.valid",
        "pickup.next",
        "start.executing",
        "publish.cmd_id",
        "publish.response",
        "publish.tail",
        "publish.committed",
        "publish.clear",
    ],
)
def test_nothing_is_lost_when_the_engine_dies_at(engines: Engines, point: str) -> None:
    for count in (1, 50, 7):
        engines.serve("--crash-at", f"{point}:{count}")
        assert engines.wait_dead()[0] == -9
    engines.serve()
    assert_good(engines)


def test_a_missing_publication_record_is_noticed(engines: Engines) -> None:
    """Without it a death behind the commit point leaves a command that is done and looks pending.

    The successor executes and publishes it again, which breaks the ring, or refuses the journal.
    """
    said = ""
    for _ in range(20):
        engines.serve("--cheat", "skip-record", "--crash-at", "publish.committed:40")
        said = engines.wait_dead()[1]
        if "OBD_E_" in said or engines.ring.ringd.stat().is_broken:
            break
    assert engines.ring.ringd.stat().is_broken or "OBD_E_" in said


@pytest.mark.parametrize("cheat", ["reuse-id", "publish-twice"])
def test_a_cheating_engine_is_caught(engines: Engines, cheat: str) -> None:
    engines.serve("--cheat", cheat)
    report = engines.ring.report()
    wrong = report["corrupt"] + report["stale"] + report["misplaced"] + report["lost"]
    assert report["broken"] or wrong > 0
    assert not report["good"]


def test_reset_ring_is_a_way_back_without_a_journal(engines: Engines, tmp_path: Path) -> None:
    engines.serve()
    eventually(lambda: engines.completed() > 500, 30)
    engines.kill()
    (tmp_path / "inflight").unlink()
    engines.ring.ringd.reset()
    engines.serve("--mode", "fresh")
    report = engines.ring.finish()
    assert report["good"], engines.ring.log()
    assert report["resets"] == 1
