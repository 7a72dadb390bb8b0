"""What a killed installation leaves in the kernel is taken away, and nothing else."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from chaos.rig.leftovers import take_away_below

pytestmark = pytest.mark.host


def mounts() -> list[str]:
    return [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]


def test_mounts_below_go_the_deepest_first_and_those_beside_stay(tmp_path: Path) -> None:
    ours, beside = tmp_path / "run", tmp_path / "running"
    for folder in (ours / "a", beside):
        folder.mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], check=True)
    (ours / "a" / "b").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", ours / "a" / "b"], check=True)
    try:
        take_away_below(ours)
        assert not [point for point in mounts() if point.startswith(f"{ours}/")]
        assert str(beside) in mounts()
        take_away_below(ours)  # nothing is left: fine
    finally:
        take_away_below(tmp_path)
    assert str(beside) not in mounts()
