"""The linters are tests: when pytest passes, format, lint, types and C format pass too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent

COMMANDS = {
    "ruff-format": [str(BIN / "ruff"), "format", "--check", "."],
    "ruff": [str(BIN / "ruff"), "check", "."],
    "mypy": [str(BIN / "mypy")],
    "clang-format": ["make", "-s", "-C", "native", "format-check"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_linter_is_silent(name: str) -> None:
    done = subprocess.run(COMMANDS[name], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


def test_repository_names_no_place_of_one_machine() -> None:
    """What is committed works anywhere: no absolute path of a checkout, no package host."""
    pattern = r"https?://[a-z.-]*(debian|pypi|pythonhosted|npmjs)"
    done = subprocess.run(
        ["git", "grep", "-nIE", pattern, "--", ".", ":!tests/test_linters.py"],
        cwd=REPO,
        capture_output=True,
        text=True,
    )
    assert done.stdout == ""
