"""What the watch of a rollout takes for a bad sign, and what not."""

from __future__ import annotations

from dataclasses import fields

import pytest

from obdsup.state.journal import JournalCounters
from obdsup.supervisor.rollout_watch import Meter, Summary, judge

NOTHING = JournalCounters(*[0] * len(fields(JournalCounters)))


def counters(**values: int) -> JournalCounters:
    return JournalCounters(
        **{field.name: values.get(field.name, 0) for field in fields(JournalCounters)}
    )


def measured(seconds: int, per_s: int, in_flight: int, **last: int) -> Summary:
    """A device that does ``per_s`` commands a second with so many in flight."""
    meter = Meter()
    for second in range(seconds + 1):
        extra = last if second == seconds else {}
        now = counters(completed=second * per_s, in_flight=in_flight, **extra)
        meter.add(float(second), now, has_work=in_flight > 0)
    return meter.summary


def test_the_means_are_those_of_the_load() -> None:
    before = measured(10, 1000, 4)
    assert before.means_ms == pytest.approx({"latency": 4.0, "time per command": 1.0})


@pytest.mark.parametrize(
    ("before", "since", "reason"),
    [
        ((10, 1000, 4), (10, 1000, 4), ""),
        ((10, 1000, 4), (10, 100, 4), "the mean latency went from 4.000 ms to 40.000 ms"),
        ((10, 5000, 1), (10, 1000, 1), ""),  # five times 0.2 ms: nobody rolls back for that
        ((10, 1000, 64), (10, 20, 1), "the mean time per command went from 1.000 ms to 50.000 ms"),
        ((10, 1000, 4), (10, 2, 4), ""),  # 20 commands say nothing about a mean
        ((10, 0, 0), (10, 100, 4), ""),  # nothing to compare with
        ((10, 1000, 4), (11, 0, 4), "none was completed for 11.0 s"),
        ((10, 1000, 4), (9, 0, 4), ""),
    ],
)
def test_slowness(before: tuple[int, ...], since: tuple[int, ...], reason: str) -> None:
    found = judge(measured(*before), measured(*since))
    assert reason in found
    assert bool(reason) == bool(found)


def test_one_medium_error_is_too_many_unless_there_were_as_many_before() -> None:
    clean, bad = measured(10, 1000, 4), measured(10, 1000, 4, medium_errors=3)
    assert "3 commands ended in a medium error" in judge(clean, bad)
    assert judge(bad, bad) == ""
    assert judge(bad, clean) == ""
    assert judge(bad, measured(10, 1000, 4, medium_errors=30))


def test_a_few_refused_commands_are_a_host_that_probes() -> None:
    clean = measured(10, 1000, 4)
    assert judge(clean, measured(10, 1000, 4, refused_cmds=16)) == ""
    assert "17 commands were refused" in judge(clean, measured(10, 1000, 4, refused_cmds=17))


def test_a_journal_that_was_started_over_begins_at_nothing() -> None:
    meter = Meter()
    meter.add(0.0, counters(completed=1000, medium_errors=9), has_work=True)
    meter.add(1.0, NOTHING, has_work=True)
    meter.add(2.0, counters(completed=10), has_work=True)
    assert (meter.summary.completed, meter.summary.medium_errors) == (10, 0)
    assert meter.summary.seconds == 1.0
