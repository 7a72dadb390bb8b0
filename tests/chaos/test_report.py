"""The verdict: each way to fail is found, the JSON has the promised keys."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from rich.console import Console

from chaos.demo.report import Outcome, print_table, problems, to_json
from chaos.rig.kills import Kind, LandedKill
from chaos.rig.latency import Operation

MS = 1_000_000


def _good() -> Outcome:
    return Outcome(
        seed=1,
        seconds=45.0,
        provider="fuse",
        kernel="6.1",
        planned={Kind.WORKER, Kind.SUPERVISOR},
        kills=[
            LandedKill(Kind.WORKER, 100 * MS, 104 * MS, 3, 1),
            LandedKill(Kind.WORKER, 200 * MS, 203 * MS, 0, 0),
            LandedKill(Kind.SUPERVISOR, 300 * MS, 900 * MS, 0, 0),
        ],
        operations=[Operation(99 * MS, 105 * MS), Operation(201 * MS, 202 * MS)],
        sets=10,
        reads_direct=5,
        keys=7,
        commands=1000,
    )


def test_good_run_has_no_problems() -> None:
    assert problems(_good()) == []


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda o: o.io_errors.append("EIO"), "I/O errors"),
        (lambda o: o.lost_or_stale.append("key"), "lost or stale"),
        (lambda o: setattr(o, "container_restarts", 1), "container restarts"),
        (lambda o: setattr(o, "commands", 0), "nothing was served"),
        (lambda o: setattr(o, "sets", 0), "nothing was served"),
        (lambda o: setattr(o, "reads_direct", 0), "nothing was served"),
        (lambda o: o.kills.pop(0), "never landed"),
        (lambda o: o.kills.pop(2), "supervisor"),
        (lambda o: o.planned.add(Kind.BOTH), "both"),
    ],
)
def test_each_failure_is_a_problem(spoil: Callable[[Outcome], None], word: str) -> None:
    outcome = _good()
    spoil(outcome)
    assert len(problems(outcome)) == 1
    assert word in problems(outcome)[0]


def test_a_run_that_broke_off_is_a_problem() -> None:
    assert problems(_good(), "mount refused") == ["mount refused"]


def test_json_has_the_promised_keys() -> None:
    result = to_json(_good())
    assert result["kills"] == {"worker": 2, "supervisor": 1, "both": 0}
    assert result["commands"] == 1000
    assert result["recovered_in_flight"] == 3
    assert (result["io_errors"], result["lost_or_stale"], result["container_restarts"]) == (0, 0, 0)
    stalls = result["stall_ms"]
    assert isinstance(stalls, dict)
    assert (stalls["p50"], stalls["p99"], stalls["max"]) == (1.0, 6.0, 6.0)
    assert stalls["by_kind"]["worker"]["max"] == 6.0
    assert (result["provider"], result["kernel"]) == ("fuse", "6.1")
    assert result["kills_in_flight"] == 1


def test_table_shows_verdict_and_reasons() -> None:
    outcome = _good()
    outcome.lost_or_stale.append("GET c0-1: stale")
    text = io.StringIO()
    print_table(outcome, Console(file=text, width=100))
    assert "GET c0-1: stale" in text.getvalue()
    assert "FAILED" in text.getvalue()
    text = io.StringIO()
    print_table(_good(), Console(file=text, width=100))
    assert "demo: passed" in text.getvalue()
