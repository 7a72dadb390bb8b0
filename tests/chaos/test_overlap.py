"""Faults on top of each other: which, when, and what is excused by the other one."""

from __future__ import annotations

import random
import threading
import time

import pytest

from chaos.campaign.outcome import FaultOutcome
from chaos.campaign.overlap import in_pairs, shared_out, strike_both
from chaos.campaign.plan import FaultShare, make_plan, overlapping
from chaos.faults.base import Landing
from chaos.rig.problem import Overdue, RigError

SHARES = [FaultShare("kill", 5, is_kill=True), FaultShare("slow", 3, is_kill=False)]
PATIENCE_S = 20.0


def overlapped(percent: int, seed: int = 1) -> list[tuple[int, bool]]:
    plan = make_plan(seed, SHARES, 40, 2)
    made = overlapping(plan, seed, percent, {"kill", "slow"}, {"kill"})
    return [(fault.number, fault.is_on_top) for fault in made]


def test_the_same_seed_overlaps_the_same_faults_and_none_at_zero_percent() -> None:
    assert overlapped(50) == overlapped(50)
    assert overlapped(50) != overlapped(50, seed=2)
    assert not any(is_on_top for _, is_on_top in overlapped(0))


def test_only_kinds_that_may_strike_on_top_of_one_other_fault() -> None:
    plan = make_plan(3, SHARES, 40, 2)
    made = list(overlapping(plan, 3, 100, {"kill", "slow"}, {"kill"}))
    assert [fault.number for fault in made] == [fault.number for fault in plan]
    on_top = [n for n, fault in enumerate(made) if fault.is_on_top]
    assert on_top
    for number in on_top:
        assert made[number].kind == "kill"
        assert number > 0
        assert not made[number - 1].is_on_top


def test_every_fault_is_struck_once_alone_or_in_a_pair() -> None:
    plan = make_plan(4, SHARES, 30, 2)
    made = list(overlapping(plan, 4, 60, {"kill", "slow"}, {"kill"}))
    pairs = list(in_pairs(made))
    flat = [fault for pair in pairs for fault in pair if fault is not None]
    assert flat == made
    assert all(second is None or second.is_on_top for _, second in pairs)
    assert any(second is not None for _, second in pairs)


def outcome(recovered: int, already_done: int) -> FaultOutcome:
    return FaultOutcome(
        "kill", "d0", 1, 2, 1, True, "", recovered, already_done, (), 1, 0
    )  # fmt: skip


def test_commands_that_both_have_counted_count_once() -> None:
    first, second = shared_out([outcome(5, 1), outcome(5, 0)], 7)
    assert (first.recovered, first.already_done) == (5, 1)
    assert (second.recovered, second.already_done) == (1, 0)


def landing(begun_ns: int, served_ns: int) -> Landing:
    return Landing(begun_ns, served_ns, has_landed=True, evidence="seen")


def test_the_second_strikes_while_the_first_is_not_over() -> None:
    struck, second_over = threading.Event(), threading.Event()

    def first() -> Landing:
        begun_ns = time.monotonic_ns()
        struck.set()
        assert second_over.wait(PATIENCE_S)
        return landing(begun_ns, time.monotonic_ns())

    def second() -> Landing:
        begun_ns = time.monotonic_ns()
        second_over.set()
        return landing(begun_ns, time.monotonic_ns())

    both = strike_both(first, second, struck.is_set, random.Random(1), PATIENCE_S)
    assert both.has_overlapped
    assert both.first.has_landed
    assert both.second.has_landed


def test_a_first_one_that_was_over_sooner_is_no_overlap() -> None:
    both = strike_both(
        lambda: landing(1, 2), lambda: landing(3, 4), lambda: False, random.Random(1), PATIENCE_S
    )
    assert not both.has_overlapped


def test_a_fault_whose_victim_the_other_one_took_has_not_landed() -> None:
    def disturbed() -> Landing:
        raise RigError("worker 7 was gone before the kill")

    both = strike_both(lambda: landing(1, 2), disturbed, lambda: True, random.Random(1), PATIENCE_S)
    assert not both.second.has_landed
    assert "worker 7" in both.second.evidence


@pytest.mark.parametrize("is_first", [True, False])
def test_service_that_does_not_come_back_is_not_excused(is_first: bool) -> None:
    def overdue() -> Landing:
        raise Overdue("service after the worker died: not within 60 s")

    faults = [overdue, lambda: landing(1, 2)]
    first, second = faults if is_first else reversed(faults)
    with pytest.raises(Overdue, match="service after"):
        strike_both(first, second, lambda: True, random.Random(1), PATIENCE_S)
