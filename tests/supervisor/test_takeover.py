"""Workers die; devices are served on. Real processes, fake rings."""

from __future__ import annotations

import os
import signal
import struct
from pathlib import Path

import pytest

from obdsup.errors import HandoffError
from tests.conftest import eventually
from tests.supervisor.fake_service import FakeService, is_alive

pytestmark = [pytest.mark.integration]


def test_takeover_by_the_standby_when_the_worker_is_killed(service: FakeService) -> None:
    made = service.create("a")
    service.wait_for_standby()
    pid = service.kill_worker("a")
    shown = service.online_with_other_worker("a", pid)
    assert shown["generation"] == made["generation"] + 1
    assert shown["takeovers"] == 1
    assert shown["last_takeover"]["recovered"] == 3
    assert [row["fields"]["recovered"] for row in service.events("takeover.done")] == [3]
    assert service.events("worker.lost")
    service.wait_for_standby()


def test_takeover_without_a_standby_starts_a_worker(idle: FakeService) -> None:
    idle.start("--standbys", "0")
    idle.create("a")
    pid = idle.kill_worker("a")
    idle.online_with_other_worker("a", pid)


def test_many_devices_lost_at_once_all_come_back(service: FakeService) -> None:
    names = [f"d{number}" for number in range(6)]
    for name in names:
        service.create(name)
    pids = {name: service.worker_pid(name) for name in names}
    assert len(set(pids.values())) == len(names), "one device per worker"
    for pid in pids.values():
        os.kill(pid, signal.SIGKILL)
    for name in names:
        service.online_with_other_worker(name, pids[name])
    eventually(lambda: service.client.call("status")["standbys_ready"] == 1, 20)


def test_one_server_per_ring_through_many_kills(service: FakeService) -> None:
    service.create("a")
    for _ in range(10):
        service.wait_for_standby()
        pid = service.kill_worker("a")
        service.online_with_other_worker("a", pid)
    shown = service.show("a")
    assert shown["takeovers"] == 10
    assert shown["generation"] == 11
    assert "AlreadyServed" not in service.log_text()


@pytest.mark.parametrize("damage", ["magic", "version", "boot_id", "uuid", "empty"])
def test_a_journal_that_can_not_be_trusted_means_ring_reset(
    service: FakeService, damage: str
) -> None:
    service.create("a")
    service.wait_for_standby()
    path = Path(service.show("a")["journal"])
    pid = service.worker_pid("a")
    os.kill(pid, signal.SIGSTOP)  # it must not rewrite what is damaged
    with path.open("r+b") as file:
        if damage == "empty":
            file.truncate(0)
        else:
            offset = {"magic": 0, "version": 8, "boot_id": 16, "uuid": 32}[damage]
            file.seek(offset)
            file.write(struct.pack("<I", 99))
    os.kill(pid, signal.SIGKILL)
    shown = service.online_with_other_worker("a", pid)
    assert service.provider_calls().count("reset_ring a") == 1
    assert len(service.events("ring.reset")) == 1
    assert shown["last_takeover"]["recovered"] == 3


def test_an_image_that_can_not_be_opened_blocks_its_device_only(service: FakeService) -> None:
    bad = service.image("bad")
    service.create("a")
    service.create("b", "bad")
    service.wait_for_standby()
    (bad / "fail-serve").write_text("")
    pid = service.kill_worker("b")
    eventually(lambda: service.show("b")["phase"] == "blocked", 20)
    assert "planted failure of serve" in service.show("b")["reason"]
    service.wait_for_standby()
    other = service.kill_worker("a")
    service.online_with_other_worker("a", other)
    (bad / "fail-serve").unlink()
    shown = service.online_with_other_worker("b", pid)
    assert shown["reason"] == ""


def test_an_image_that_does_not_answer_keeps_no_standby_from_getting_ready(
    service: FakeService,
) -> None:
    silent = service.image("silent")
    service.create("a")
    service.create("b", "silent")
    service.wait_for_standby()
    (silent / "hang-prewarm").write_text("")
    for _ in range(2):  # the second take-over needs the standby that met the silent image
        service.wait_for_standby()
        pid = service.kill_worker("a")
        service.online_with_other_worker("a", pid)
    (silent / "hang-prewarm").unlink()


def test_workers_that_die_at_every_take_over_do_not_storm(service: FakeService) -> None:
    bad = service.image("bad")
    service.create("b", "bad")
    service.wait_for_standby()
    (bad / "crash-serve").write_text("")
    pid = service.kill_worker("b")
    eventually(lambda: service.show("b")["phase"] == "blocked", 20)
    eventually(lambda: len(service.events("device.blocked")) >= 3, 20)
    waits = [row["fields"]["retry_s"] for row in service.events("device.blocked")]
    assert waits[0] < waits[1] < waits[2]
    (bad / "crash-serve").unlink()
    service.online_with_other_worker("b", pid)


def test_a_worker_that_hangs_in_serve_is_killed_before_the_next_one(idle: FakeService) -> None:
    idle.start("--serve-timeout-s", "2")
    idle.wait_for_standby()
    bad = idle.image("bad")
    idle.create("b", "bad")
    idle.wait_for_standby()
    (standby,) = [w for w in idle.client.call("status")["workers"] if w["state"] == "standby"]
    (bad / "hang-serve").write_text(standby["id"])
    pid = idle.kill_worker("b")
    shown = idle.online_with_other_worker("b", pid)
    assert shown["worker"]["pid"] != standby["pid"]
    assert not is_alive(standby["pid"])
    assert [row["fields"]["worker"] for row in idle.events("worker.fenced")] == [standby["id"]]


def test_handover_moves_the_device_to_a_standby(service: FakeService) -> None:
    made = service.create("a")
    shown = dict(service.client.call("device.handover", name="a"))
    assert shown["worker"]["pid"] != made["worker"]["pid"]
    assert shown["generation"] == made["generation"] + 1
    assert shown["takeovers"] == 0
    eventually(lambda: not is_alive(made["worker"]["pid"]), 20)
    service.wait_for_standby()


def test_handover_that_fails_falls_back_to_the_old_worker(service: FakeService) -> None:
    folder = service.root / "img"
    made = service.create("a")
    service.wait_for_standby()
    (standby,) = [w for w in service.client.call("status")["workers"] if w["state"] == "standby"]
    (folder / "fail-serve").write_text(standby["id"])
    with pytest.raises(HandoffError, match="planted failure of serve"):
        service.client.call("device.handover", name="a")
    shown = service.show("a")
    assert shown["phase"] == "online"
    assert shown["worker"]["pid"] == made["worker"]["pid"]
    assert shown["generation"] == made["generation"] + 2
    service.wait_for_standby()
    pid = service.kill_worker("a")
    service.online_with_other_worker("a", pid)


@pytest.mark.parametrize("op", ["prewarm", "drain"])
def test_handover_that_can_not_begin_changes_nothing(service: FakeService, op: str) -> None:
    made = service.create("a")
    service.wait_for_standby()
    (service.root / "img" / f"fail-{op}").write_text("")
    with pytest.raises(HandoffError):
        service.client.call("device.handover", name="a")
    shown = service.show("a")
    assert shown["worker"]["pid"] == made["worker"]["pid"]
    assert shown["generation"] == made["generation"]


def test_handover_with_a_standby_that_dies_serving_ends_with_a_server(
    service: FakeService,
) -> None:
    made = service.create("a")
    service.wait_for_standby()
    (standby,) = [w for w in service.client.call("status")["workers"] if w["state"] == "standby"]
    (service.root / "img" / "crash-serve").write_text(standby["id"])
    with pytest.raises(HandoffError):
        service.client.call("device.handover", name="a")
    assert service.worker_pid("a") == made["worker"]["pid"]


def test_supervisorctl_shows_and_stops_workers_safely(service: FakeService) -> None:
    import subprocess
    import sys

    service.create("a")
    service.wait_for_standby()
    pid = service.worker_pid("a")
    worker_id = service.show("a")["worker"]["id"]
    url = f"unix://{service.root}/run/supervisor.sock"
    ctl = [str(Path(sys.executable).parent / "supervisorctl"), "-s", url]
    status = subprocess.run([*ctl, "status"], capture_output=True, text=True).stdout
    assert f"pid {pid}" in status
    tail = subprocess.run([*ctl, "tail", f"workers:{worker_id}"], capture_output=True, text=True)
    assert "listens" in tail.stdout
    subprocess.run([*ctl, "stop", f"workers:{worker_id}"], capture_output=True, check=True)
    service.online_with_other_worker("a", pid)
    service.wait_for_standby()
    subprocess.run([*ctl, "start", f"workers:{worker_id}"], capture_output=True, check=True)
    reload = subprocess.run([*ctl, "reload"], capture_output=True, text=True, input="y\n")
    assert reload.returncode in (0, 1)
    assert service.show("a")["phase"] == "online"
