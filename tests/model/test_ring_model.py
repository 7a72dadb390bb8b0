"""The Spin model of ring, journal and recovery: right in every state, each bad variant refuted."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent.parent
MODEL = REPO / "model" / "ring.pml"

KNOWN_BAD = {
    "RING_ONLY": "assertion violated",
    "NO_RECORD": "assertion violated",
    "RECORD_AFTER_TAIL": "assertion violated",
    "FREE_BEFORE_TAIL": "invalid end state",
    "DROP_BY_OFFSET": "invalid end state",
}


def search(work: Path, *defines: str) -> tuple[int, int, str]:
    """Checks every reachable state; returns (errors, states stored, the checker's output)."""
    flags = [f"-D{name}" for name in defines]
    subprocess.run(["spin", *flags, "-a", str(MODEL)], cwd=work, check=True, capture_output=True)
    compile_pan = ["gcc", "-O2", "-w", "-DSAFETY", "-DCOLLAPSE", "-DMEMLIM=4000", "pan.c"]
    subprocess.run([*compile_pan, "-o", "pan"], cwd=work, check=True, capture_output=True)
    done = subprocess.run(["./pan", "-m1000000", "-n"], cwd=work, capture_output=True, text=True)
    errors = re.search(r"errors: (\d+)", done.stdout)
    states = re.search(r"(\d+) states, stored", done.stdout)
    assert errors is not None, done.stdout + done.stderr
    assert states is not None, done.stdout + done.stderr
    assert "max search depth too small" not in done.stdout
    return int(errors[1]), int(states[1]), done.stdout


def test_protocol_holds_in_every_reachable_state(tmp_path: Path) -> None:
    errors, states, output = search(tmp_path)
    assert errors == 0, output
    assert states > 100_000  # two kills anywhere among four commands: fewer means a cut search


@pytest.mark.parametrize("variant", KNOWN_BAD)
def test_known_bad_variant_is_refuted(variant: str, tmp_path: Path) -> None:
    errors, _, output = search(tmp_path, variant)
    assert errors > 0, f"{variant} was not refuted"
    assert KNOWN_BAD[variant] in output
