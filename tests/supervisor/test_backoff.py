"""When to try again."""

from __future__ import annotations

from obdsup.supervisor.backoff import Backoff


def test_deaths_with_progress_are_answered_at_once() -> None:
    backoff = Backoff()
    assert [backoff.failed(float(t), 0.5, made_progress=True) for t in range(100)] == [0.0] * 100


def test_deaths_without_progress_wait_longer_and_longer_up_to_a_bound() -> None:
    backoff = Backoff(first_s=0.1, longest_s=5.0)
    waits = [backoff.failed(100.0 * n, 0.0) for n in range(12)]
    assert waits[:3] == [0.0, 0.0, 0.0]
    assert waits[3:6] == [0.1, 0.2, 0.4]
    assert waits[-1] == 5.0
    assert backoff.failed(5000.0, 0.999) < 7.5


def test_success_ends_the_row() -> None:
    backoff = Backoff(free_failures=0)
    assert backoff.failed(0.0, 0.0) > 0
    backoff.succeeded()
    assert backoff.failed(100.0, 0.0) == 0.1


def test_a_storm_is_slowed_down_even_with_progress() -> None:
    backoff = Backoff(burst_max=5, window_s=10.0)
    waits = [backoff.failed(n / 10, 0.0, made_progress=True) for n in range(10)]
    assert waits[:5] == [0.0] * 5
    assert all(wait > 0 for wait in waits[5:])
