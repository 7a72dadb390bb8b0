"""Lookups in the merged index stay cheap: instructions counted by callgrind, not time."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import REPO

NATIVE = REPO / "native"
LOOKUPS = 5000


@pytest.fixture(scope="module")
def prog_index() -> Path:
    out = "build/pytest"
    make = ["make", "-s", "-C", str(NATIVE), f"OUT={out}", f"{out}/prog_index"]
    done = subprocess.run(make, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return NATIVE / out / "prog_index"


# With the path valgrind offers, AVX2, these took 82, 114, 86 and 132 when this was written; one key
# at a time takes twice that.
@pytest.mark.native
@pytest.mark.parametrize(
    ("segments", "mode", "most"),
    [(1000, "one", 95), (100_000, "one", 130), (1000, "batch", 100), (100_000, "batch", 150)],
)
def test_lookup_takes_few_instructions(
    prog_index: Path, tmp_path: Path, segments: int, mode: str, most: int
) -> None:
    if not shutil.which("valgrind"):
        pytest.skip("needs valgrind")
    out = tmp_path / "callgrind.out"
    command = [
        "valgrind", "--tool=callgrind", "--toggle-collect=look_up", f"--callgrind-out-file={out}",
        str(prog_index), str(segments), str(LOOKUPS), mode,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.startswith(f"{LOOKUPS} of {LOOKUPS} ")
    if not done.stdout.endswith("path 1\n"):
        pytest.skip("valgrind offers no AVX2 here")
    counted = re.search(r"^(?:summary|totals): (\d+)", out.read_text(), re.MULTILINE)
    assert counted
    print(f"{int(counted[1]) / LOOKUPS:.1f} instructions")
    assert LOOKUPS * 10 < int(counted[1]) < LOOKUPS * most
