"""Lengths of time on the command line, and what ``upgrade`` asks the supervisor for."""

from __future__ import annotations

import pytest

from obdsup.cli.__main__ import run_command
from obdsup.cli.upgrade import parse_seconds
from obdsup.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30.0), ("2m", 120.0), ("500ms", 0.5), ("1h", 3600.0), ("1.5", 1.5), ("0", 0.0)],
)
def test_a_length_of_time_has_a_unit_or_is_seconds(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "soon", "3x", "3 minutes", "3sm", "1d"])
def test_what_is_no_length_of_time_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no length of time"):
        parse_seconds(text)


def test_an_upgrade_needs_a_target() -> None:
    with pytest.raises(ConfigError, match="needs --to"):
        run_command(["upgrade"])
