"""One thread held by ptrace: it stands, its process can be killed, and afterwards it goes on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from chaos.rig.held_thread import HeldThread
from chaos.rig.problem import RigError
from tests.conftest import eventually

pytestmark = [pytest.mark.host]

ECHO = "import sys\nfor line in sys.stdin: print(line, end='', flush=True)"


@pytest.fixture
def echo() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", ECHO], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def state(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rsplit(")", 1)[1].split()[0]


def test_a_held_thread_stands_and_goes_on(echo: subprocess.Popen[str]) -> None:
    assert echo.stdin is not None
    assert echo.stdout is not None
    with HeldThread(echo.pid):
        echo.stdin.write("a\n")
        echo.stdin.flush()
        assert state(echo.pid) == "t"
    assert echo.stdout.readline() == "a\n"


def test_a_held_process_can_be_killed(echo: subprocess.Popen[str]) -> None:
    with HeldThread(echo.pid):
        echo.kill()
        eventually(lambda: state(echo.pid) == "Z")


def test_no_thread_can_not_be_held(echo: subprocess.Popen[str]) -> None:
    echo.kill()
    echo.wait(10)
    with pytest.raises(RigError, match="can not be held"):
        HeldThread(echo.pid).__enter__()
