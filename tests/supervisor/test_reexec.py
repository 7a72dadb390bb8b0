"""The supervisor becomes another program in place: one pid, workers and fds kept. Fake rings."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from obdsup.errors import ConfigError, ControlError, DeviceNotFound
from tests.conftest import eventually
from tests.supervisor.fake_service import FakeService, is_alive

pytestmark = [pytest.mark.integration]


def reexec(service: FakeService, **fields: Any) -> dict[str, Any]:
    """Asks for it and waits until the successor answers."""
    before = service.client.call("status")["started"]
    answer = dict(service.client.call("reexec", **fields))
    eventually(lambda: service.client.call("status")["started"] > before, 20)
    return answer


def worker_pids(service: FakeService) -> set[int]:
    return {worker["pid"] for worker in service.client.call("status")["workers"]}


def test_pid_workers_and_devices_stay(service: FakeService) -> None:
    before = service.create("a")
    service.wait_for_standby()
    pids = worker_pids(service)
    for _ in range(3):
        answer = reexec(service)
        assert service.process is not None
        assert answer["pid"] == service.client.call("status")["pid"] == service.process.pid
        assert worker_pids(service) == pids
        after = service.show("a")
        assert (after["phase"], after["worker"], after["generation"]) == (
            "online", before["worker"], before["generation"],
        )  # fmt: skip
    pid = service.kill_worker("a")
    service.online_with_other_worker("a", pid)
    asked = [row["fields"]["pid"] for row in service.events("supervisor.reexec")]
    assert asked == [answer["pid"]] * 3


def test_a_dead_workers_exit_status_is_known_after_a_reexec(service: FakeService) -> None:
    service.create("a")
    reexec(service)
    pid = service.kill_worker("a")
    service.online_with_other_worker("a", pid)
    lost = eventually(
        lambda: [row for row in service.events("worker.lost") if row["fields"]["pid"] == pid]
    )
    assert lost[0]["fields"]["status"] != "unknown"
    assert not Path(f"/proc/{pid}").exists(), "a zombie is left"


def test_hangup_is_a_reexec(service: FakeService) -> None:
    service.create("a")
    assert service.process is not None
    before = service.client.call("status")["started"]
    service.process.send_signal(signal.SIGHUP)
    eventually(lambda: service.client.call("status")["started"] > before, 20)
    assert service.process.poll() is None
    assert service.show("a")["phase"] == "online"


def test_a_release_that_can_not_start_is_refused_and_nothing_happens(
    service: FakeService, tmp_path: Path
) -> None:
    service.create("a")
    started = service.client.call("status")["started"]
    with pytest.raises(ConfigError, match="is no release"):
        service.client.call("reexec", path=str(tmp_path))
    (tmp_path / "bin").mkdir()
    broken = tmp_path / "bin" / "python"
    broken.write_text("#!/bin/sh\necho 'no module named obdsup' >&2\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(ConfigError, match="no module named obdsup"):
        service.client.call("reexec", path=str(tmp_path))
    assert service.client.call("status")["started"] == started
    assert service.show("a")["phase"] == "online"


def test_a_release_that_is_gone_at_the_exec_leaves_this_one_running(
    service: FakeService, tmp_path: Path
) -> None:
    (tmp_path / "bin").mkdir()
    vanishing = tmp_path / "bin" / "python"
    vanishing.write_text('#!/bin/sh\nrm "$0"\necho \'{"version": "9"}\'\n')
    vanishing.chmod(0o755)
    started = service.client.call("status")["started"]
    service.client.call("reexec", path=str(tmp_path))
    failed = eventually(
        lambda: [e for e in service.events("supervisor.reexec") if "failed" in e["fields"]], 20
    )
    assert "No such file" in failed[0]["fields"]["failed"]
    assert service.client.call("status")["started"] == started
    reexec(service)  # and it can be asked again


def test_requests_during_a_reexec_wait_and_are_answered(service: FakeService) -> None:
    service.create("a")
    failures: list[ControlError] = []
    is_over = threading.Event()

    def ask() -> None:
        while not is_over.is_set():
            try:
                service.client.call("device.handover", name="nobody")
            except DeviceNotFound:
                continue
            except ControlError as error:
                failures.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for _ in range(3):
            reexec(service)
    finally:
        is_over.set()
        asking.join()
    assert failures == []


def test_an_operation_under_way_is_finished_first(service: FakeService) -> None:
    folder = service.image("slow")
    (folder / "hang-serve").touch()
    started = service.client.call("status")["started"]
    creating = threading.Thread(target=lambda: service.create("a", "slow"))
    creating.start()
    eventually(lambda: (folder / "hanging-serve").exists(), 10)
    asking = threading.Thread(target=lambda: reexec(service))
    asking.start()
    (folder / "hang-serve").unlink()
    creating.join()
    asking.join()
    assert service.client.call("status")["started"] > started
    assert service.show("a")["phase"] == "online"
    assert service.show("a")["generation"] == 1, "the worker was killed in the middle of an order"


def test_the_journal_that_was_served_is_used_whatever_has_its_name(service: FakeService) -> None:
    """Somebody emptied the run directory: the fds that were kept are the ring and the journal."""
    service.create("a")
    journal = service.root / "run" / "devices" / "a" / "inflight"
    reexec(service)
    inode = journal.stat().st_ino
    journal.unlink()
    assert service.process is not None
    pid = service.worker_pid("a")
    os.kill(pid, signal.SIGSTOP)  # its successor finds it dead, not serving
    service.process.send_signal(signal.SIGHUP)
    eventually(lambda: not is_alive(pid), 20)
    after = service.online_with_other_worker("a", pid)
    assert after["generation"] == 2
    assert after["resets"] == 0
    assert inode in open_journals(service.process.pid)


def open_journals(pid: int) -> set[int]:
    """Inodes of the journals a process has open; its fds come and go meanwhile."""
    found = set()
    for fd in list(Path(f"/proc/{pid}/fd").iterdir()):
        with contextlib.suppress(FileNotFoundError):
            if "inflight" in os.readlink(fd):
                found.add(os.stat(fd).st_ino)
    return found
