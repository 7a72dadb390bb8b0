"""Stalls and percentiles."""

from __future__ import annotations

import pytest

from chaos.rig.latency import Operation, percentile, stall_ns, summarize

OPERATIONS = [
    Operation(0, 40),  # before
    Operation(90, 130),  # in flight at the kill, ends before service is back
    Operation(95, 210),  # in flight at the kill, ends after
    Operation(180, 600),  # sent while nobody served
    Operation(201, 900),  # after
]


def test_stall_is_the_longest_operation_that_overlaps() -> None:
    assert stall_ns(OPERATIONS, 100, 200) == 420
    assert stall_ns(OPERATIONS, 100, 170) == 115


def test_stall_counts_operations_that_touch_the_window() -> None:
    assert stall_ns(OPERATIONS, 40, 50) == 40
    assert stall_ns(OPERATIONS, 41, 50) == 0


def test_no_operation_no_stall() -> None:
    assert stall_ns([], 0, 10**9) == 0


@pytest.mark.parametrize(("percent", "value"), [(50, 50), (99, 99), (100, 100), (1, 1), (0, 1)])
def test_percentile_is_a_measured_value(percent: float, value: int) -> None:
    assert percentile(list(range(100, 0, -1)), percent) == value


def test_summary_is_in_milliseconds() -> None:
    summary = summarize([1_000_000, 2_000_000, 30_000_000])
    assert summary.to_json() == {"count": 3, "p50": 2.0, "p99": 30.0, "max": 30.0}


def test_summary_of_nothing_is_zero() -> None:
    assert summarize([]).to_json() == {"count": 0, "p50": 0.0, "p99": 0.0, "max": 0.0}
