"""A pid is one process only together with its start time."""

from __future__ import annotations

import os
import subprocess
import sys

from obdsup.state import process
from obdsup.state.process import ProcessIdentity


def spawn() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])


def test_pidfd_of_a_living_process_and_its_death() -> None:
    child = spawn()
    identity = process.identify(child.pid)
    assert identity is not None
    fd = process.open_pidfd(identity)
    assert fd is not None
    assert not process.has_exited(fd)
    assert process.kill(fd, 10)
    assert process.has_exited(fd)
    assert process.identify(child.pid) is None, "a zombie is gone"
    assert process.open_pidfd(identity) is None
    child.wait()
    os.close(fd)


def test_another_start_time_is_another_process() -> None:
    mine = process.identify(os.getpid())
    assert mine is not None
    assert process.open_pidfd(ProcessIdentity(mine.pid, mine.start_time + 1)) is None


def test_no_process_is_none() -> None:
    assert process.identify(0) is None
    assert process.identify(-1) is None


def test_boot_id_is_a_uuid() -> None:
    assert len(process.boot_id()) == 36
