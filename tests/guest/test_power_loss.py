"""Power loss, short: one recording in the guest, crash states of it on the host (chaos.power)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.guest.guest_vm import KERNEL, REPO

pytestmark = pytest.mark.kernel

SHORT = ("--points", "40", "--operations", "120", "--kills", "1", "--file-system", "ext4")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts crash states: needs root")
def test_whatever_was_synced_survives_a_power_cut_at_any_moment(tmp_path: Path) -> None:
    if not (REPO / "build" / "guest" / KERNEL / "ready").is_file():
        pytest.skip(f"guest kernel {KERNEL} is not prepared (make kernel)")
    report = tmp_path / "power.json"
    done = subprocess.run(
        [sys.executable, "-m", "chaos.power", "--kernel", KERNEL, "--json", str(report), *SHORT],
        cwd=REPO, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(report.read_text())["recordings"][0]
    assert sum(found["points"].values()) == 40
    assert set(found["points"]) == {"flush", "order", "subset", "torn"}
    assert found["worker_kills"] == 1
    # the promises were many enough to be broken
    assert found["flushes"] > 20
    assert found["promised"] > 500
    assert found["checked"] > 5000
