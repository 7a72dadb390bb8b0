"""The recovery table with real workers and a ring that checks every command (ringd load)."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from obdsup.state.journal import JournalCounters, JournalReader
from tests.conftest import REPO, eventually
from tests.integration.service import Service, is_alive

pytestmark = [pytest.mark.integration]


@pytest.fixture
def service(load_service: Service) -> Service:
    return load_service


def create(service: Service, image: Path, name: str = "a") -> dict[str, Any]:
    args = ("device", "create", name, "--image", str(image), "--writable", "--size", "1G")
    return dict(service.call(*args))


def is_served_by_another(service: Service, pid: int, name: str = "a") -> bool:
    shown = service.show(name)
    return shown["phase"] == "online" and shown["worker"]["pid"] != pid


def journal_counters(journal: str) -> JournalCounters:
    """What the workers wrote down, without asking any process."""
    fd = os.open(journal, os.O_RDONLY)
    try:
        return JournalReader(fd, journal).counters()
    finally:
        os.close(fd)


def commands_go_on(service: Service, name: str = "a") -> None:
    before = service.show(name)["commands"]
    eventually(lambda: service.show(name)["commands"] > before, 20)


def verified(service: Service, name: str = "a") -> None:
    """Ends the load and demands all zeros of its checker."""
    ring = service.run_dir / "rings"
    service.call("device", "remove", name)
    report = json.loads((ring / f"{name}.json").read_text())
    assert report["commands"] > 0
    for key in ("errors", "lost", "stale", "misplaced", "broken"):
        assert not report[key], (key, report)


def test_a_removed_device_leaves_files_that_any_reader_understands(
    service: Service, tmp_path: Path
) -> None:
    data, index, pending = (tmp_path / name for name in ("u.data", "u.index", "u.index.pending"))
    service.call("image", "new-upper", "--size", "64M", str(data), str(index))
    config = tmp_path / "config.v1.json"
    upper = {"data": str(data), "index": str(index)}
    config.write_text(json.dumps({"repoBlobUrl": "", "lowers": [], "upper": upper}))
    service.call("device", "create", "a", "--image", str(config), "--writable")
    commands_go_on(service)
    service.wait_for_standby()
    assert pending.is_file()
    verified(service)
    assert index.stat().st_size > 4096
    assert not pending.exists()


def test_kills_under_checked_load_lose_nothing(service: Service, image: Path) -> None:
    create(service, image)
    for _ in range(5):
        commands_go_on(service)
        service.wait_for_standby()
        pid = service.worker_pid("a")
        os.kill(pid, signal.SIGKILL)
        eventually(lambda pid=pid: is_served_by_another(service, pid), 20)
    commands_go_on(service)
    shown = service.show("a")
    assert shown["takeovers"] == 5
    assert shown["recovered"] > 0, "no kill met a command in flight"
    assert shown["resets"] == 0
    verified(service)


def test_supervisor_killed_alone_stops_no_command(service: Service, image: Path) -> None:
    create(service, image)
    pid = service.worker_pid("a")
    journal = str(service.show("a")["journal"])
    service.kill_supervisor()
    at_kill = journal_counters(journal).completed
    eventually(lambda: journal_counters(journal).completed > at_kill + 1000, 20)
    assert is_alive(pid)
    service.start()
    assert service.worker_pid("a") == pid
    assert service.show("a")["generation"] == 1
    commands_go_on(service)
    verified(service)


def test_both_killed_the_next_supervisor_recovers(service: Service, image: Path) -> None:
    create(service, image)
    for _ in range(10):  # until the kill met a command in flight: usually the first
        service.wait_for_standby()
        commands_go_on(service)
        pid = service.worker_pid("a")
        service.kill_supervisor()
        os.kill(pid, signal.SIGKILL)
        service.start()
        eventually(lambda pid=pid: is_served_by_another(service, pid), 20)
        commands_go_on(service)
        if service.show("a")["recovered"] > 0:
            break
    assert service.show("a")["recovered"] > 0, "no kill met a command in flight"
    assert service.show("a")["resets"] == 0
    verified(service)


def test_handovers_under_load_lose_nothing(service: Service, image: Path) -> None:
    create(service, image)
    for number in range(3):
        service.wait_for_standby()
        pid = service.worker_pid("a")
        service.call("device", "handover", "a")
        assert is_served_by_another(service, pid)
        assert service.show("a")["generation"] == 2 + number
        commands_go_on(service)
    verified(service)


def stop_with_commands_in_flight(service: Service, journal: str) -> int:
    """Stops the worker at a moment when it has commands in flight; returns its pid."""
    pid = service.worker_pid("a")

    def is_caught() -> bool:
        os.kill(pid, signal.SIGSTOP)
        if journal_counters(journal).in_flight > 0:
            return True
        os.kill(pid, signal.SIGCONT)
        return False

    eventually(is_caught, 20)
    return pid


@pytest.mark.parametrize(
    ("offset", "damage"),
    [
        (0, b"NOTOURS\0"),  # magic
        (8, b"\xff\0\0\0"),  # of a later release
        (16, bytes(16)),  # of another boot
        (32, bytes(16)),  # of another device
        (124, bytes(4)),  # torn: the crc of the header
        (None, b""),  # lost: cut to nothing
    ],
)
def test_a_journal_that_can_not_be_trusted_means_reset_and_service(
    service: Service, image: Path, offset: int | None, damage: bytes
) -> None:
    create(service, image)
    service.wait_for_standby()
    commands_go_on(service)
    journal = str(service.show("a")["journal"])
    pid = stop_with_commands_in_flight(service, journal)
    with Path(journal).open("r+b") as file:
        if offset is None:
            file.truncate(0)
        else:
            file.seek(offset)
            file.write(damage)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: is_served_by_another(service, pid), 20)
    commands_go_on(service)
    assert any(row["event"] == "ring.reset" for row in service.call("events"))
    verified(service)


def open_files(pid: int) -> list[str]:
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed since
            found.append(os.readlink(entry))
    return found


def test_a_removed_device_leaves_no_file_open_in_workers_of_others(
    service: Service, image: Path, tmp_path: Path
) -> None:
    layer = tmp_path / "only-b.obd"
    shutil.copyfile(REPO / "tests" / "golden" / "mini" / "m0.lz4.obd", layer)
    other = tmp_path / "other.config.v1.json"
    other.write_text(json.dumps({"lowers": [{"file": str(layer)}]}))
    create(service, image)
    create(service, other, "b")
    pid = service.worker_pid("a")
    service.wait_for_standby()
    os.kill(pid, signal.SIGKILL)  # its successor was a standby, with both images open
    eventually(lambda: is_served_by_another(service, pid), 20)
    assert str(layer) in open_files(service.worker_pid("a"))
    service.call("device", "remove", "b")
    eventually(lambda: str(layer) not in open_files(service.worker_pid("a")), 20)
    commands_go_on(service)
    verified(service)


def test_second_supervisor_is_refused(service: Service, image: Path) -> None:
    create(service, image)
    refused = service.run("supervisor", "--provider", "load")
    assert refused.returncode == 20
    commands_go_on(service)


@pytest.mark.skipif(os.geteuid() != 0, reason="a priority above that of others takes root")
def test_supervisor_and_workers_run_before_those_who_wait_for_them(
    service: Service, image: Path
) -> None:
    create(service, image)
    for pid in (service.supervisor_pid, service.worker_pid("a")):
        assert os.getpriority(os.PRIO_PROCESS, pid) == -10
        group = Path(f"/proc/{pid}/autogroup")  # only where the kernel has them
        assert not group.exists() or os.getsid(pid) != pid or "nice -10" in group.read_text()
