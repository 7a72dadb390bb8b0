"""The checking client catches a redis that loses, rewinds or refuses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.workloads.redis import client
from chaos.workloads.redis.client import Client
from chaos.workloads.redis.ledger import Ledger
from tests.chaos.fake_redis import FakeRedis
from tests.conftest import eventually

TIMEOUT_S = 10.0


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeRedis]:
    with FakeRedis(tmp_path / "redis.sock") as redis:
        yield redis


def _load(path: Path, fake: FakeRedis, fault: str, until) -> tuple[Client, Ledger]:  # type: ignore[no-untyped-def]
    ledger = Ledger("salt")
    loader = Client(0, 1, ledger, path / "redis.sock", TIMEOUT_S)
    loader.start()
    try:
        eventually(lambda: fake.set_cnt > 50)
        fake.fault = fault
        eventually(lambda: until(loader))
    finally:
        loader.stop()
        loader.join(TIMEOUT_S)
    assert not loader.is_alive()
    return loader, ledger


def test_honest_redis_is_found_honest(tmp_path: Path, fake: FakeRedis) -> None:
    loader, ledger = _load(tmp_path, fake, "", lambda loader: loader.set_cnt > 100)
    assert (loader.errors, loader.wrong) == ([], [])
    assert len(loader.operations) >= loader.set_cnt
    assert client.read_back(tmp_path / "redis.sock", ledger, TIMEOUT_S) == []


@pytest.mark.parametrize(("fault", "word"), [("lose", "lost"), ("rewind", "st")])
def test_wrong_answers_are_noticed_while_loading(
    tmp_path: Path, fake: FakeRedis, fault: str, word: str
) -> None:
    loader, _ = _load(tmp_path, fake, fault, lambda loader: loader.wrong)
    assert word in loader.wrong[0]


@pytest.mark.parametrize("fault", ["lose", "rewind"])
def test_wrong_answers_are_noticed_when_reading_back(
    tmp_path: Path, fake: FakeRedis, fault: str
) -> None:
    _, ledger = _load(tmp_path, fake, "", lambda loader: loader.set_cnt > 100)
    fake.fault = fault
    wrong = client.read_back(tmp_path / "redis.sock", ledger, TIMEOUT_S)
    assert len(wrong) == len(ledger.written())


def test_refused_set_is_an_error_and_not_remembered(tmp_path: Path, fake: FakeRedis) -> None:
    loader, ledger = _load(tmp_path, fake, "misconf", lambda loader: loader.errors)
    assert "MISCONF" in loader.errors[0]
    fake.fault = ""
    assert client.read_back(tmp_path / "redis.sock", ledger, TIMEOUT_S) == []


def test_waiting_for_redis_ends_when_its_container_is_gone(tmp_path: Path) -> None:
    with pytest.raises(TimeoutError):
        client.wait_answering(tmp_path / "none.sock", lambda: False, TIMEOUT_S)
