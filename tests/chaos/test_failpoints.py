"""Failpoints: Python and C agree on the page; a worker stops exactly where it was told."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.rig import hooked
from chaos.rig.failpoints import POINTS, SPARSE_POINTS, Action, FailPoints
from chaos.rig.problem import RigError
from tests.conftest import REPO

# Opens an image three times in a row, as a worker does: four points each time.
OPEN_THREE = """
import sys
from obdsup.worker.native import Image
for _ in range(3):
    Image([], (sys.argv[1], sys.argv[2])).close()
    print("opened", flush=True)
"""


@pytest.fixture
def page(tmp_path: Path) -> Iterator[FailPoints]:
    page = FailPoints.create(tmp_path / "failpoints")
    try:
        yield page
    finally:
        page.close()


@pytest.fixture(scope="module")
def python_path() -> Path:
    return hooked.build()


@pytest.fixture(scope="module")
def upper(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("upper")
    files = [str(folder / "data"), str(folder / "index")]
    command = [sys.executable, "-m", "obdsup.cli", "image", "new-upper", "--size", "1048576"]
    subprocess.run([*command, *files], check=True, capture_output=True)
    return files


def _start(page: FailPoints, python_path: Path, upper: list[str]) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        **page.environment,
        "PYTHONPATH": str(python_path),
        "PYTHONSAFEPATH": "1",
    }
    return subprocess.Popen(
        [sys.executable, "-c", OPEN_THREE, *upper],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )


def _run(page: FailPoints, python_path: Path, upper: list[str]) -> tuple[int, int]:
    """Exit code and how often the image was opened."""
    process = _start(page, python_path, upper)
    output, _ = process.communicate(timeout=60)
    return process.returncode, output.count("opened")


def test_list_of_points_is_that_of_the_sources() -> None:
    sources = "".join(path.read_text() for path in (REPO / "native" / "src").glob("*.c"))
    points = POINTS + SPARSE_POINTS
    assert sorted(points) == sorted(
        set(re.findall(r'OBD_CRASH_POINT(?:_LBA)?\("([^"]+)"', sources))
    )
    assert len(set(points)) == len(points)
    assert max(map(len, points)) < 32


def test_page_is_laid_out_as_documented(page: FailPoints) -> None:
    index = page.arm("publish.tail", Action.SLEEP, count=7, repeat=3, sleep_ms=250)
    raw = page.path.read_bytes()
    assert index == 0
    assert raw[:20] == b"OBDFAILP" + bytes.fromhex("01000000 00000000 00000000")
    assert raw[64 : 64 + 48] == bytes.fromhex(
        "01000000 05000000 fa00000000000000 0700000000000000 0700000000000000"
        "03000000 00000000 0100000000000000"
    )
    assert raw[112:144] == b"publish.tail".ljust(32, b"\0")
    assert not any(raw[144:])
    assert len(raw) == 4096


def test_process_dies_at_the_pass_it_was_told(
    page: FailPoints, python_path: Path, upper: list[str]
) -> None:
    index = page.arm("image.upper", Action.SIGKILL, count=2)
    assert _run(page, python_path, upper) == (-signal.SIGKILL, 1)
    hit = page.wait(0)
    assert (hit.point, hit.action, hit.number) == ("image.upper", Action.SIGKILL, 0)
    assert hit.pid > 0
    assert not page.is_armed(index)


def test_successor_is_not_hit(page: FailPoints, python_path: Path, upper: list[str]) -> None:
    page.arm("image.open", Action.SIGKILL)
    assert _run(page, python_path, upper) == (-signal.SIGKILL, 0)
    assert _run(page, python_path, upper) == (0, 3)
    assert len(page.hits()) == 1


def test_repeat_hits_so_many_processes_once_each(
    page: FailPoints, python_path: Path, upper: list[str]
) -> None:
    page.arm("image.opened", Action.SLEEP, repeat=2, sleep_ms=1)
    assert [_run(page, python_path, upper) for _ in range(3)] == [(0, 3)] * 3
    assert len({hit.pid for hit in page.hits()}) == len(page.hits()) == 2


def test_kinds_of_death(page: FailPoints, python_path: Path, upper: list[str]) -> None:
    for action, number in ((Action.SIGSEGV, signal.SIGSEGV), (Action.ABORT, signal.SIGABRT)):
        page.arm("image.open", action)
        assert _run(page, python_path, upper) == (-number, 0)
    assert [hit.action for hit in page.hits()] == [Action.SIGSEGV, Action.ABORT]


@pytest.mark.parametrize("action", [Action.SIGSTOP, Action.SPIN])
def test_process_stays_where_it_was_stopped(
    page: FailPoints, python_path: Path, upper: list[str], action: Action
) -> None:
    page.arm("image.opened", action)
    process = _start(page, python_path, upper)
    try:
        assert page.wait(60).pid == process.pid
        assert process.poll() is None
        process.send_signal(signal.SIGCONT)  # ends a stop, not an endless loop
        if action is Action.SIGSTOP:
            assert process.communicate(timeout=60)[0].count("opened") == 3
    finally:
        process.kill()
        process.communicate()


def test_point_that_follows_another(page: FailPoints, python_path: Path, upper: list[str]) -> None:
    page.arm_after("image.opened", "image.open")
    assert _run(page, python_path, upper) == (-signal.SIGKILL, 1)
    assert [hit.point for hit in page.hits()] == ["image.open"]


def test_disarmed_page_stops_nobody(page: FailPoints, python_path: Path, upper: list[str]) -> None:
    page.arm("image.open")
    page.disarm()
    assert _run(page, python_path, upper) == (0, 3)
    assert page.hits() == []


def test_unknown_point_is_refused(page: FailPoints) -> None:
    with pytest.raises(RigError, match=r"no point 'publish\.nothing'"):
        page.arm("publish.nothing")


def test_full_page_is_refused(page: FailPoints) -> None:
    for _ in range(20):
        page.arm("publish.tail")
    with pytest.raises(RigError, match="all 20 entries"):
        page.arm("publish.tail")


def test_worker_with_a_page_that_is_none_does_not_run(
    tmp_path: Path, python_path: Path, upper: list[str]
) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_bytes(bytes(4096))
    environment = {"PYTHONPATH": str(python_path), "OBDSUP_FAILPOINTS": str(wrong)}
    done = subprocess.run(
        [sys.executable, "-P", "-c", OPEN_THREE, *upper],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 10
    assert f"OBDSUP_FAILPOINTS: {wrong} is no page of failpoints" in done.stderr


def test_installed_build_knows_no_points(
    page: FailPoints, upper: list[str], python_path: Path
) -> None:
    page.arm("image.open")
    assert _run(page, REPO, upper) == (0, 3)
    assert page.hits() == []
