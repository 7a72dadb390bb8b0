"""The judgement on values: what a lost, stale, foreign or still unacknowledged value is."""

from __future__ import annotations

import pytest

from chaos.workloads.redis.ledger import Ledger, Verdict


@pytest.fixture
def ledger() -> Ledger:
    """Key k: SET 1 and 2 acknowledged, SET 3 sent and not answered."""
    ledger = Ledger("salt")
    for _ in range(2):
        number, _ = ledger.issue("k")
        ledger.acknowledge("k", number)
    ledger.issue("k")
    return ledger


@pytest.mark.parametrize(
    ("number", "verdict"),
    [(1, Verdict.STALE), (2, Verdict.GOOD), (3, Verdict.GOOD), (4, Verdict.FOREIGN)],
)
def test_value_is_judged_by_its_number(ledger: Ledger, number: int, verdict: Verdict) -> None:
    assert ledger.judge("k", ledger.value("k", number), ledger.floor("k")) is verdict


def test_missing_value_is_lost_once_a_set_was_acknowledged(ledger: Ledger) -> None:
    assert ledger.judge("k", None, ledger.floor("k")) is Verdict.LOST


def test_missing_value_is_fine_while_no_set_was_acknowledged(ledger: Ledger) -> None:
    ledger.issue("new")
    assert ledger.judge("new", None, ledger.floor("new")) is Verdict.GOOD


@pytest.mark.parametrize(
    "damage",
    [
        lambda value: value[:-1],
        lambda value: value + b"x",
        lambda value: value[:-1] + bytes([value[-1] ^ 1]),
        lambda value: b"",
        lambda value: b"k:two:" + value,
    ],
)
def test_damaged_value_is_foreign(ledger: Ledger, damage) -> None:  # type: ignore[no-untyped-def]
    damaged = damage(ledger.value("k", 2))
    assert ledger.judge("k", damaged, ledger.floor("k")) is Verdict.FOREIGN


def test_value_of_another_key_or_run_is_foreign(ledger: Ledger) -> None:
    ledger.issue("other")
    assert ledger.judge("k", ledger.value("other", 1), 2) is Verdict.FOREIGN
    assert ledger.judge("k", Ledger("elsewhere").value("k", 2), 2) is Verdict.FOREIGN


def test_floor_taken_before_a_get_judges_it_not_what_came_after(ledger: Ledger) -> None:
    floor = ledger.floor("k")
    ledger.acknowledge("k", 3)
    assert ledger.judge("k", ledger.value("k", 2), floor) is Verdict.GOOD
    assert ledger.judge("k", ledger.value("k", 2), ledger.floor("k")) is Verdict.STALE
