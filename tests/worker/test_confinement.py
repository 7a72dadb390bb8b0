"""What a worker has given up: asked of the kernel, and tried."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.worker.worker_process import WorkerProcess

pytestmark = [pytest.mark.integration]

KEPT = 1 << 1 | 1 << 2 | 1 << 3  # DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER
ATTEMPTS = """
import errno, os, resource, socket, sys, threading
from obdsup.worker import process
from obdsup._native import ffi, lib
process.confine()

def refused(attempt):
    try:
        attempt()
    except PermissionError:
        return True
    return False

def in_a_thread(attempt):
    found = []
    thread = threading.Thread(target=lambda: found.append(refused(attempt)))
    thread.start()
    thread.join()
    return found[0]

attempts = {
    "exec": lambda: os.execv("/bin/true", ["true"]),
    "chroot": lambda: os.chroot("/"),
    "chown": lambda: os.chown(sys.argv[1], 12345, 12345),
    "nice": lambda: os.setpriority(os.PRIO_PROCESS, 0, -20),
}
bad = [name for name, attempt in attempts.items()
       if not (refused(attempt) and in_a_thread(attempt))]
# what serving needs goes on
with open(sys.argv[1], "r+b") as file:
    file.write(b"x")
    os.fsync(file.fileno())
socket.socketpair()
print(bad)
"""


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_a_worker_holds_no_more_than_it_needs_in_any_thread(tmp_path: Path) -> None:
    worker = WorkerProcess(tmp_path)
    try:
        assert stat.S_IMODE(worker.path.stat().st_mode) == 0o600
        for task in Path(f"/proc/{worker.pid}/task").iterdir():
            status = status_of(int(task.name))
            assert status["NoNewPrivs"] == "1"
            assert status["Seccomp"] == "2", "no filter"
            for name in ("CapPrm", "CapEff"):
                assert int(status[name], 16) & ~KEPT == 0, (name, status[name])
            assert int(status["CapInh"], 16) == 0
            if os.geteuid() == 0:
                assert int(status["CapBnd"], 16) & ~KEPT == 0
    finally:
        worker.close()


def test_what_was_given_up_is_refused_and_what_serving_needs_is_not(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"data")
    done = subprocess.run(
        [sys.executable, "-c", ATTEMPTS, str(file)], capture_output=True, text=True
    )
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr
