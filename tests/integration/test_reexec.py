"""The supervisor replaced in place under a load whose every read is checked (ringd load)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import eventually
from tests.integration.service import Service
from tests.integration.test_supervisor import commands_go_on, create, verified

pytestmark = [pytest.mark.integration]

REEXECS = 20


def worker_pids(service: Service) -> set[int]:
    return {worker["pid"] for worker in service.call("status")["workers"]}


def test_twenty_reexecs_under_checked_load_touch_no_worker(
    load_service: Service, image: Path
) -> None:
    service = load_service
    create(service, image)
    service.wait_for_standby()
    eventually(lambda: all(row["state"] != "starting" for row in service.call("status")["workers"]))
    pids = worker_pids(service)
    for _ in range(REEXECS):
        service.call("reload")
        assert service.call("status")["pid"] == service.supervisor_pid
        assert worker_pids(service) == pids
    shown = service.show("a")
    assert (shown["generation"], shown["takeovers"]) == (1, 0)
    commands_go_on(service)
    verified(service)
