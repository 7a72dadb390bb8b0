"""Status, top and explain of a running supervisor."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import eventually
from tests.supervisor.fake_service import FakeService

pytestmark = [pytest.mark.integration]


def obdsup(service: FakeService, *arguments: str) -> str:
    run_dir = str(service.root / "run")
    done = subprocess.run(
        [sys.executable, "-m", "obdsup.cli", "--run-dir", run_dir, *arguments],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return done.stdout


def blocked_for_want_of_a_file(service: FakeService) -> None:
    """Device a: its worker dies and no other can serve it."""
    service.create("a")
    service.wait_for_standby()
    (service.root / "img" / "fail-serve").touch()
    service.kill_worker("a")
    eventually(lambda: service.show("a")["phase"] == "blocked", 20)


def test_status_says_that_nothing_is_wrong(service: FakeService) -> None:
    service.create("a")
    service.wait_for_standby()
    text = obdsup(service, "status")
    assert "devices    1: 1 online" in text
    assert "1 of 1 standbys ready" in text
    assert "nothing is wrong" in text
    assert len(text.splitlines()) < 25, "one screen"


def test_status_says_what_is_wrong_and_what_to_do(service: FakeService) -> None:
    blocked_for_want_of_a_file(service)
    text = obdsup(service, "status")
    assert "device a is blocked: /fake at byte 12" in text
    assert "obdsup device explain a" in text


def test_explain_says_why_what_was_tried_and_what_to_do(service: FakeService) -> None:
    blocked_for_want_of_a_file(service)
    text = obdsup(service, "device", "explain", "a")
    assert text.startswith("a: blocked\n")
    assert "planted failure of serve" in text
    assert "device.blocked" in text
    assert "it heals by itself" in text
    told = json.loads(obdsup(service, "--json", "device", "explain", "a"))
    assert told["phase"] == "blocked"
    assert told["next"]
    (service.root / "img" / "fail-serve").unlink()
    eventually(lambda: service.show("a")["phase"] == "online", 30)
    told = json.loads(obdsup(service, "--json", "device", "explain", "a"))
    assert "serves it" in told["summary"]


def test_top_tells_of_the_last_change_of_servers(service: FakeService) -> None:
    service.create("a")
    service.wait_for_standby()
    pid = service.kill_worker("a")
    service.online_with_other_worker("a", pid)
    eventually(lambda: service.client.call("top")["devices"][0]["last_change"], 20)
    line = json.loads(obdsup(service, "--json", "top", "--once", "--interval", "0.2"))
    (device,) = line["devices"]
    assert (device["name"], device["phase"], device["takeovers"]) == ("a", "online", 1)
    assert device["stall_ms"] > 0
    assert line["total"]["takeovers"] == 1
    table = obdsup(service, "top", "--once", "--interval", "0.2").splitlines()
    assert table[0].startswith("obdsup ")
    assert table[1].split()[:3] == ["DEVICE", "PHASE", "WORKER"]
    assert table[3].split()[:2] == ["a", "online"]


def test_the_last_change_is_known_after_a_restart(service: FakeService) -> None:
    service.create("a")
    service.wait_for_standby()
    pid = service.kill_worker("a")
    service.online_with_other_worker("a", pid)
    eventually(lambda: service.show("a")["last_takeover"], 20)
    service.client.call("events")  # what is queued for state.db is there
    service.kill()
    service.start()
    (device,) = service.client.call("top")["devices"]
    assert device["last_change"]["kind"] == "takeover"


def test_in_flight_is_one_number_per_device(service: FakeService) -> None:
    service.create("a")
    service.create("b")
    assert service.client.call("top.in_flight") == {"a": 0, "b": 0}


def test_events_are_followed_over_a_restart(service: FakeService) -> None:
    service.create("a")
    run_dir = str(service.root / "run")
    path = service.root / "followed"
    with path.open("wb") as out, subprocess.Popen(
        [sys.executable, "-m", "obdsup.cli", "--run-dir", run_dir, "events", "--follow"],
        stdout=out, stderr=subprocess.DEVNULL,
    ) as follower:  # fmt: skip
        try:
            eventually(lambda: "device.online  a" in path.read_text(), 20)
            service.kill()
            service.start()
            eventually(lambda: "worker.adopted" in path.read_text(), 30)
        finally:
            follower.kill()


def test_events_of_a_device_and_of_a_kind(service: FakeService) -> None:
    service.create("a")
    service.create("b")
    rows: list[dict[str, Any]] = json.loads(
        obdsup(service, "--json", "events", "--device", "b", "--event", "device.*", "--newest", "2")
    )
    assert [(r["event"], r["device"]) for r in rows] == [
        ("device.serving", "b"), ("device.online", "b"),
    ]  # fmt: skip


def test_state_db_is_where_status_says(service: FakeService) -> None:
    found = json.loads(obdsup(service, "--json", "status"))
    assert (Path(found["state_dir"]) / "state.db").exists()
    assert found["problems"] == []
