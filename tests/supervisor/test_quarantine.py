"""When a device is left alone."""

from __future__ import annotations

from obdsup.supervisor.quarantine import Quarantine


def test_deaths_in_a_row_without_progress_are_enough() -> None:
    quarantine = Quarantine(deaths=5)
    said = [quarantine.died(100.0 * n, made_progress=False, served_s=0.0) for n in range(5)]
    assert said[:4] == ["", "", "", ""]
    assert "5 workers in a row" in said[4]


def test_progress_ends_the_row() -> None:
    quarantine = Quarantine(deaths=3)
    for n in range(30):
        assert quarantine.died(10.0 * n, made_progress=n % 3 == 0, served_s=0.5) == ""


def test_an_idle_device_whose_workers_are_killed_now_and_then_is_no_failure() -> None:
    quarantine = Quarantine(deaths=3)
    assert {quarantine.died(60.0 * n, made_progress=False, served_s=60.0) for n in range(99)} == {
        ""
    }


def test_a_storm_is_enough_also_with_progress() -> None:
    quarantine = Quarantine(burst_max=10, window_s=60.0)
    said = [quarantine.died(n / 10, made_progress=True, served_s=0.1) for n in range(11)]
    assert said[:10] == [""] * 10
    assert "11 workers died in 60 s" in said[10]
    assert quarantine.died(1000.0, made_progress=True, served_s=0.1) == ""


def test_zero_turns_it_off() -> None:
    quarantine = Quarantine(deaths=0)
    assert {quarantine.died(0.0, made_progress=False, served_s=0.0) for _ in range(999)} == {""}


def test_lifted_it_counts_anew() -> None:
    quarantine = Quarantine(deaths=2)
    quarantine.died(0.0, made_progress=False, served_s=0.0)
    quarantine.lift()
    assert quarantine.died(1.0, made_progress=False, served_s=0.0) == ""
