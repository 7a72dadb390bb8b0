"""Builds native/tests/test_*.c in the release build and runs each as a test of its own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

NATIVE = Path(__file__).resolve().parents[2] / "native"
OUT = "build/pytest"
PROGRAMS = sorted(path.stem for path in (NATIVE / "tests").glob("test_*.c"))
SKIPPED = 77
LIMIT_S = 300

pytestmark = pytest.mark.native


@pytest.fixture(scope="session")
def built() -> Path:
    """The folder of the programs, all of them built."""
    done = subprocess.run(
        ["make", "-s", "-C", str(NATIVE), f"OUT={OUT}", "tests"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return NATIVE / OUT


@pytest.mark.parametrize("program", PROGRAMS)
def test_native_program_passes(program: str, built: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [built / program],
        cwd=NATIVE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    if done.returncode == SKIPPED:
        pytest.skip(done.stdout.strip() or done.stderr.strip() or "skipped without a reason")
    assert done.returncode == 0, done.stdout + done.stderr
