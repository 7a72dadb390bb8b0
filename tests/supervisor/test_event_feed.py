"""The operation ``events`` of a running supervisor: newest, of a device, followed."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import pytest

from obdsup.errors import ConfigError
from tests.conftest import eventually
from tests.supervisor.fake_service import FakeService

pytestmark = [pytest.mark.integration]


def names(rows: list[dict[str, Any]]) -> list[str]:
    return [row["event"] for row in rows]


def test_newest_of_a_device_and_of_a_kind(service: FakeService) -> None:
    service.create("a")
    rows = service.client.call("events", newest=1, device="a")
    assert names(rows) == ["device.online"]
    rows = service.client.call("events", newest=5, device="a", pattern="device.r*")
    assert names(rows) == ["device.ring_made"]


def test_a_follower_is_told_of_an_event_as_it_happens(service: FakeService) -> None:
    service.create("a")
    (last,) = service.client.call("events", newest=1)
    found: list[list[dict[str, Any]]] = []

    def follow() -> None:
        found.append(
            service.client.call("events", since=last["id"], pattern="takeover.done", wait_s=30)
        )

    follower = threading.Thread(target=follow)
    follower.start()
    service.wait_for_standby()
    os.kill(service.worker_pid("a"), signal.SIGKILL)
    eventually(lambda: found, 20)  # long before the wait is over
    assert names(found[0]) == ["takeover.done"]


def test_a_wait_ends_without_an_event(service: FakeService) -> None:
    assert service.client.call("events", pattern="device.hung", wait_s=0.05) == []


@pytest.mark.parametrize(
    "request_", [{"since": -1}, {"newest": 5001}, {"newest": True}, {"device": 5}, {"wait_s": 1e9}]
)
def test_a_bad_request_is_refused_by_name(service: FakeService, request_: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(request_))):
        service.client.call("events", **request_)
