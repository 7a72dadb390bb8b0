"""A short campaign on the kernel's own rings: workers die under a stamped load, nothing is lost."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.guest.guest_vm import KERNEL, REPO

pytestmark = [pytest.mark.kernel, pytest.mark.chaos]
KILLS = 5


def test_workers_die_under_tcmu_and_nothing_is_lost() -> None:
    if not (REPO / "build" / "guest" / KERNEL / "ready").is_file():
        pytest.skip(f"guest kernel {KERNEL} is not prepared (make kernel)")
    path = REPO / "out" / "test-guest" / "chaos.json"  # /tmp of the host is not seen in the guest
    command = [sys.executable, "-m", "chaos.campaign", "run", "--provider", "tcmu"]
    command += ["--where", "guest", "--kernel", KERNEL, "--workloads", "sectors"]
    command += ["--kills", str(KILLS), "--seed", "9", "--no-report", "--json", str(path)]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    (result,) = json.loads(path.read_text())["campaigns"]
    assert result["problems"] == []
    assert (result["where"], result["provider"]) == ("guest", "tcmu")
    assert result["worker_kills"] >= KILLS
    assert result["in_flight_recovered"] > 0
    assert result["kernel_log"] == "clean"
