"""Plans: the same from the same seed, with every kind in it, in the numbers asked for."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos.campaign.plan import LONGEST_PAUSE_S, FaultShare, endless_plan, make_plan

KINDS = ("worker-kill", "both-kill", "supervisor-kill", "standby-kill", "worker-stop")
SHARES = st.lists(
    st.builds(FaultShare, st.sampled_from(KINDS), st.integers(1, 50), st.booleans()),
    min_size=1,
    max_size=5,
    unique_by=lambda share: share.kind,
)


@given(SHARES, st.integers(0, 2**32), st.integers(1, 300), st.integers(1, 8))
def test_plan_has_the_kills_asked_for_and_every_kind(
    shares: list[FaultShare], seed: int, kills: int, device_cnt: int
) -> None:
    plan = make_plan(seed, shares, kills, device_cnt)
    counts = Counter(fault.kind for fault in plan)
    counted = [s.kind for s in shares if s.is_kill] or [s.kind for s in shares]
    assert set(counts) == {share.kind for share in shares}
    # one kind more than asked for at most, for those that must come up once
    assert kills <= sum(counts[kind] for kind in counted) <= kills + len(shares)
    assert all(0 <= fault.device < device_cnt for fault in plan)
    assert all(0 <= fault.pause_s <= LONGEST_PAUSE_S for fault in plan)
    assert [fault.number for fault in plan] == list(range(len(plan)))


@given(SHARES, st.integers(0, 2**32), st.integers(1, 100), st.integers(1, 8))
def test_same_seed_gives_the_same_plan(
    shares: list[FaultShare], seed: int, kills: int, device_cnt: int
) -> None:
    assert make_plan(seed, shares, kills, device_cnt) == make_plan(seed, shares, kills, device_cnt)
    first, again = (
        list(itertools.islice(endless_plan(seed, shares, device_cnt), 50)) for _ in range(2)
    )
    assert first == again


@given(st.integers(0, 2**32))
def test_another_seed_gives_another_plan(seed: int) -> None:
    shares = [FaultShare("worker-kill", 1, True)]
    assert make_plan(seed, shares, 20, 4) != make_plan(seed + 1, shares, 20, 4)


@given(SHARES, st.integers(0, 2**32))
def test_endless_plan_begins_with_each_kind_once(shares: list[FaultShare], seed: int) -> None:
    first = list(itertools.islice(endless_plan(seed, shares, 2), len(shares)))
    assert Counter(fault.kind for fault in first) == Counter(share.kind for share in shares)


def test_weights_are_the_ratio_of_the_kinds() -> None:
    shares = [FaultShare("worker-kill", 9, True), FaultShare("both-kill", 1, True)]
    counts = Counter(fault.kind for fault in make_plan(3, shares, 1000, 4))
    assert counts == {"worker-kill": 900, "both-kill": 100}


def test_faults_that_kill_no_worker_come_on_top() -> None:
    shares = [FaultShare("worker-kill", 10, True), FaultShare("supervisor-kill", 1, False)]
    counts = Counter(fault.kind for fault in make_plan(3, shares, 100, 4))
    assert counts == {"worker-kill": 100, "supervisor-kill": 10}


@pytest.mark.parametrize(
    ("shares", "kills", "device_cnt"),
    [([], 1, 1), ([FaultShare("worker-kill", 1, True)], 0, 1),
     ([FaultShare("worker-kill", 0, True)], 1, 1), ([FaultShare("worker-kill", 1, True)], 1, 0)],
)  # fmt: skip
def test_plan_of_nothing_is_refused(shares: list[FaultShare], kills: int, device_cnt: int) -> None:
    with pytest.raises(ValueError, match="a plan needs"):
        make_plan(1, shares, kills, device_cnt)
