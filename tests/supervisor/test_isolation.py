"""Devices that harm workers, and those beside them. Real processes, fake rings."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from pathlib import Path

import pytest

from obdsup.errors import WorkerLost
from tests.conftest import eventually
from tests.supervisor.fake_service import FakeService, is_alive

pytestmark = [pytest.mark.integration]


def quarantine(service: FakeService, name: str, folder: str) -> int:
    """Has every worker die that takes it over, until the device is left alone."""
    (service.root / folder / "crash-serve").write_text("")
    pid = service.kill_worker(name)
    eventually(lambda: service.show(name)["phase"] == "quarantined", 60)
    return pid


def test_workers_that_die_too_often_put_their_device_in_quarantine(idle: FakeService) -> None:
    idle.start("--quarantine-deaths", "5")
    idle.image("bad")
    idle.create("a")
    idle.create("b", "bad")
    idle.wait_for_standby()
    pid = quarantine(idle, "b", "bad")
    shown = idle.show("b")
    assert "5 workers in a row" in shown["reason"]
    assert shown["worker"] is None
    assert len(idle.events("device.quarantined")) == 1
    lost = len(idle.events("worker.lost"))
    other = idle.kill_worker("a")
    idle.online_with_other_worker("a", other)
    assert len(idle.events("worker.lost")) == lost + 1, "it is still tried"
    with pytest.raises(WorkerLost, match="quarantine"):
        idle.client.call("device.handover", name="b")
    (idle.root / "bad" / "crash-serve").unlink()
    resumed = dict(idle.client.call("device.resume", name="b"))
    assert (resumed["phase"], resumed["quarantine"], resumed["reason"]) == ("online", "", "")
    assert resumed["worker"]["pid"] != pid
    assert len(idle.events("device.resumed")) == 1


def test_a_quarantine_outlives_the_supervisor_and_its_lifting_too(idle: FakeService) -> None:
    idle.start("--quarantine-deaths", "3")
    idle.image("bad")
    idle.create("b", "bad")
    idle.wait_for_standby()
    quarantine(idle, "b", "bad")
    (idle.root / "bad" / "crash-serve").unlink()
    eventually(lambda: idle.events("device.quarantined"), 20)
    idle.kill()
    idle.start("--quarantine-deaths", "3")
    assert idle.show("b")["phase"] == "quarantined"
    assert "3 workers in a row" in idle.show("b")["reason"]
    idle.client.call("device.resume", name="b")
    idle.kill()
    idle.start("--quarantine-deaths", "3")
    shown = idle.show("b")
    assert (shown["phase"], shown["quarantine"]) == ("online", "")


def test_resume_of_a_device_that_still_kills_its_workers_ends_in_quarantine_again(
    idle: FakeService,
) -> None:
    idle.start("--quarantine-deaths", "3")
    idle.image("bad")
    idle.create("b", "bad")
    idle.wait_for_standby()
    quarantine(idle, "b", "bad")
    with pytest.raises(WorkerLost):
        idle.client.call("device.resume", name="b")
    eventually(lambda: len(idle.events("device.quarantined")) == 2, 60)
    assert idle.show("b")["phase"] == "quarantined"


def test_pauses_of_a_crash_loop_double_from_one_death_to_the_next(idle: FakeService) -> None:
    idle.start()
    (idle.image("bad") / "idle").touch()
    idle.create("b", "bad")
    for deaths in range(1, 7):  # three are free
        idle.wait_for_standby()
        pid = idle.kill_worker("b")
        idle.online_with_other_worker("b", pid)
        assert len(idle.events("device.blocked")) == max(deaths - 3, 0)
    pauses_s = [float(row["fields"]["retry_s"]) for row in idle.events("device.blocked")]
    for pause_s, least_s in zip(pauses_s, (0.1, 0.2, 0.4), strict=True):
        assert least_s <= pause_s <= 1.5 * least_s, pauses_s


def test_a_death_that_may_be_a_commands_fault_is_told_to_the_next_worker(
    service: FakeService,
) -> None:
    service.create("a")
    service.wait_for_standby()
    pid = service.worker_pid("a")
    os.kill(pid, signal.SIGSEGV)
    service.online_with_other_worker("a", pid)
    asked = service.root / "img" / "serves"
    assert asked.read_text().split() == ["fresh:False", "recover:True"]
    assert service.events("worker.lost")[-1]["fields"]["cause"] == "crashed"
    service.wait_for_standby()
    pid = service.kill_worker("a")
    service.online_with_other_worker("a", pid)
    assert asked.read_text().split()[-1] == "recover:False"


def test_poisoned_commands_are_reported(service: FakeService) -> None:
    service.create("a")
    service.wait_for_standby()
    (service.root / "img" / "poisoned").write_text("")
    pid = service.worker_pid("a")
    os.kill(pid, signal.SIGSEGV)
    shown = service.online_with_other_worker("a", pid)
    command = {"cdb": "2a000000000800000800", "lba": 8, "sectors": 8, "deaths": 3}
    assert shown["poisoned"] == [command]
    (event,) = service.events("command.poisoned")
    assert event["fields"] == command


def test_sigterm_ends_the_supervisor_whatever_is_stuck(idle: FakeService) -> None:
    """Its log goes to a pipe that nobody reads: the thread that writes it never ends."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 4096)
    os.set_blocking(writing, True)
    idle.log_to(writing)
    try:
        idle.start("--stop-timeout-s", "1")
        assert idle.process is not None
        idle.create("a")
        pid = idle.worker_pid("a")
        idle.process.terminate()
        assert idle.process.wait(60) == 1, "it ended by itself: nothing was stuck"
        assert is_alive(pid)
    finally:
        os.close(reading)
        os.close(writing)


def test_a_worker_that_needs_too_much_memory_dies_and_only_its_device_is_taken_over(
    service: FakeService,
) -> None:
    group = memory_group()
    if group is None:
        pytest.skip("no memory control group can be made here")
    service.create("other")
    service.create("a", memory_max=64 << 20)
    service.wait_for_standby()
    other, pid = service.worker_pid("other"), service.worker_pid("a")
    (service.root / "img" / "eat-memory").write_text(service.show("a")["worker"]["id"])
    shown = service.online_with_other_worker("a", pid)
    assert "oom" in shown["last_takeover"]["cause"]
    assert [row["device"] for row in service.events("worker.oom")] == ["a"]
    assert service.worker_pid("other") == other


def memory_group() -> Path | None:
    """A place where the kernel lets us limit memory."""
    for path in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/memory")):
        group = path / f"obdsup-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            if list(group.glob("memory.*")):
                return path
        finally:
            group.rmdir()
    return None


def test_devices_that_share_a_worker_and_one_that_does_not(service: FakeService) -> None:
    for name in ("a", "b", "c"):
        service.create(name, devices_per_worker=2)
    service.create("alone")
    pids = {name: service.worker_pid(name) for name in ("a", "b", "c", "alone")}
    assert pids["a"] == pids["b"]
    assert len(set(pids.values())) == 3
    service.client.call("device.remove", name="a")
    assert service.worker_pid("b") == pids["b"]
    os.kill(pids["b"], signal.SIGKILL)
    service.online_with_other_worker("b", pids["b"])


def test_the_successor_adopts_a_worker_with_several_devices(service: FakeService) -> None:
    for name in ("a", "b", "c"):
        service.create(name, devices_per_worker=3)
    pid = service.worker_pid("a")
    service.kill()
    service.start()
    assert {service.worker_pid(name) for name in ("a", "b", "c")} == {pid}
    os.kill(pid, signal.SIGKILL)
    for name in ("a", "b", "c"):
        service.online_with_other_worker(name, pid)


def test_many_lost_at_once_go_on_one_standby_and_are_moved_apart_again(
    service: FakeService,
) -> None:
    names = [f"d{number}" for number in range(5)]
    for name in names:
        service.create(name)
    service.wait_for_standby()
    settled = service.root / "img" / "forgot-others"
    eventually(lambda: settled.exists() and len(settled.read_text().split()) == len(names), 20)
    pids = {name: service.worker_pid(name) for name in names}
    assert len(set(pids.values())) == len(names)
    for pid in pids.values():
        os.kill(pid, signal.SIGKILL)
    for name in names:
        service.online_with_other_worker(name, pids[name])
    used = [row["fields"]["worker"] for row in service.events("takeover.done")]
    assert len(used) == len(names)
    assert len(set(used)) < len(names), "nobody waited for a worker of its own"
    eventually(lambda: len({service.worker_pid(name) for name in names}) == len(names), 60)
    assert service.events("worker.spread")
    eventually(lambda: len(settled.read_text().split()) == 2 * len(names), 20)


def test_a_standby_that_only_looks_at_an_image_stays_one(service: FakeService) -> None:
    """Spreading has workers whose devices stay close the images of others: not this one."""
    folder = service.image("slow")
    (folder / "hang-prewarm").write_text("")
    creating = threading.Thread(target=service.create, args=("c", "slow"))
    creating.start()
    eventually((folder / "hanging-prewarm").exists, 20)
    lent = worker_of(service, "c")
    service.create("b")
    settled = service.root / "img" / "forgot-others"
    eventually(settled.exists, 20)  # workers are looked at in the order of their start
    assert not (folder / "forgot-others").exists()
    (folder / "hang-prewarm").unlink()
    creating.join()
    assert worker_of(service, "c") == lent, "it was warm, and is still"


def worker_of(service: FakeService, device: str) -> str:
    """The worker that has the device, whether it serves it or not."""
    rows = service.client.call("status")["workers"]
    (found,) = (row["id"] for row in rows if device in row["devices"])
    return str(found)
