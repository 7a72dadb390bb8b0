"""The kill schedule: repeatable, complete, and with room around the rare kinds."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from chaos.demo.schedule import Rhythm, plan
from chaos.rig.kills import Kind

SEEDS = st.integers(0, 2**32)
SECONDS = st.floats(0, 300)


def test_default_run_kills_every_kind_often_enough() -> None:
    kills = plan(45, seed=7)
    count = {kind: sum(kill.kind is kind for kill in kills) for kind in Kind}
    assert count[Kind.SUPERVISOR] == 4
    assert count[Kind.BOTH] == 2
    assert 32 <= count[Kind.WORKER] <= 44


@settings(deadline=None)  # a busy machine is no failure
@given(SECONDS, SEEDS)
def test_same_seed_gives_the_same_plan(seconds: float, seed: int) -> None:
    assert plan(seconds, seed) == plan(seconds, seed)


def test_another_seed_gives_another_plan() -> None:
    assert plan(45, 1) != plan(45, 2)


@settings(deadline=None)  # a busy machine is no failure
@given(SECONDS, SEEDS)
def test_plan_is_in_order_and_ends_before_the_run(seconds: float, seed: int) -> None:
    times = [kill.at_s for kill in plan(seconds, seed)]
    assert times == sorted(times)
    assert all(0 < at_s < seconds for at_s in times)


@settings(deadline=None)  # a busy machine is no failure
@given(SECONDS, SEEDS)
def test_no_worker_kill_meets_a_kill_of_another_kind(seconds: float, seed: int) -> None:
    rhythm = Rhythm()
    kills = plan(seconds, seed, rhythm)
    special = [kill.at_s for kill in kills if kill.kind is not Kind.WORKER]
    workers = [kill.at_s for kill in kills if kill.kind is Kind.WORKER]
    assert all(abs(w - s) >= rhythm.worker_s / 2 - 0.001 for w in workers for s in special)
