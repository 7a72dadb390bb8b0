"""A program of this release is never one of another that lies in the working directory."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import obdsup
from obdsup.state.program import program_command


def test_a_package_in_the_working_directory_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "obdsup"
    other.mkdir()
    (other / "__init__.py").write_text("print('the other')\n")
    monkeypatch.chdir(tmp_path)
    command = program_command("obdsup.cli")
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=60)
    assert obdsup.__version__ in done.stdout
    assert "the other" not in done.stdout


def test_a_package_that_was_found_there_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(obdsup.__file__).parents[1])
    assert "-P" not in program_command("obdsup.cli")
