"""Workers that hang, each in another way, under a load whose every read is checked; and what only
looks like a hang: storage that does not answer, a supervisor that slept.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from chaos.rig import hooked
from chaos.rig.failpoints import Action, FailPoints
from chaos.rig.faultfs import FaultFs
from obdsup.state.control import ControlClient
from tests.conftest import eventually
from tests.integration.service import Service, is_alive
from tests.integration.test_corrupt_block import BLOCKS, make_image, read_blocks
from tests.integration.test_supervisor import (
    commands_go_on,
    create,
    is_served_by_another,
    stop_with_commands_in_flight,
    verified,
)

pytestmark = [pytest.mark.integration]

LIMIT_S = 1.5
STUCK_WORKER = Path(__file__).with_name("stuck_worker.py")
Start = Callable[..., Service]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts services with a short hang limit; takes them down afterwards."""
    with ExitStack() as stack:

        def begin(
            provider: str, *options: str, environment: dict[str, str] | None = None
        ) -> Service:
            root = Path(tempfile.mkdtemp(prefix="obdH"))  # short: socket names are limited
            stack.callback(shutil.rmtree, root)
            limit = ("--hang-limit", str(LIMIT_S))
            service = Service(root, provider, (*limit, *options), environment)
            stack.callback(service.close)
            service.start()
            service.wait_for_standby()
            return service

        yield begin


def events(service: Service, name: str) -> list[dict[str, Any]]:
    found = [row for row in service.call("events") if row["event"] == name]
    return [{"device": row["device"], **row["fields"]} for row in found]


def looks(service: Service, name: str) -> dict[str, Any]:
    """What the hang watch found at its last look at a device."""
    asked = ControlClient(str(service.run_dir / "obdsup.sock"), timeout_s=30).call("hangs")
    return dict(asked["devices"].get(name) or {})


def tells_of_hang(service: Service, pid: int, kind: str) -> None:
    """Events, the device and its explanation name the hang."""
    assert service.show("a")["last_takeover"]["cause"] == f"worker hung ({kind})"
    (lost,) = (row for row in events(service, "worker.lost") if row["pid"] == pid)
    assert (lost["cause"], lost["hang"]) == ("hung", kind)
    explained = service.call("device", "explain", "a")
    assert any("hung" in why for why in explained["why"]), explained


def demand_taken_over(
    service: Service, pid: int, verdict: str, reason: str, kind: str
) -> dict[str, Any]:
    """Another worker serves, one hang was reported, and the load saw nothing of it."""
    eventually(lambda: is_served_by_another(service, pid), 60)
    commands_go_on(service)
    assert not is_alive(pid)
    rows = [row for row in events(service, "device.hung") if row["pid"] == pid]
    assert [row["verdict"] for row in rows] == [verdict], rows
    assert reason in rows[0]["reason"], rows
    assert service.show("a")["takeovers"] == 1
    assert service.show("a")["resets"] == 0
    tells_of_hang(service, pid, kind)
    verified(service)
    return rows[0]


def test_a_stopped_worker_is_replaced(start: Start, image: Path) -> None:
    service = start("load")
    create(service, image)
    pid = stop_with_commands_in_flight(service, str(service.show("a")["journal"]))
    demand_taken_over(service, pid, "hung engine", "stopped", "stopped")


@pytest.mark.parametrize(
    ("point", "verdict"),
    [("pickup.valid", "hung engine"), ("upper.data", "hung thread")],
)
def test_an_endless_loop_in_c_is_found(
    start: Start, image: Path, tmp_path: Path, point: str, verdict: str
) -> None:
    """In the engine's thread, and in the thread of one command: the engine moves on then."""
    points = FailPoints.create(tmp_path / "points")
    path = {"PYTHONPATH": str(hooked.build()), "PYTHONSAFEPATH": "1"}
    service = start("load", environment={**path, **points.environment})
    create(service, image)
    service.wait_for_standby()
    commands_go_on(service)
    pid = service.worker_pid("a")
    points.arm(point, Action.SPIN)
    assert points.wait(30).pid == pid
    row = demand_taken_over(
        service, pid, verdict, "runs without end", verdict.removeprefix("hung ")
    )
    assert ("cdb" in row) == (verdict == "hung thread"), row
    assert any(fenced["pid"] == pid for fenced in events(service, "worker.fenced"))
    points.close()


@pytest.mark.parametrize("how", ["lock", "loop"])
def test_a_stuck_control_thread_is_found_though_commands_go_on(
    start: Start, image: Path, tmp_path: Path, how: str
) -> None:
    command = f"{sys.executable} {STUCK_WORKER} {tmp_path}"
    service = start("load", "--worker-command", command)
    create(service, image)
    service.wait_for_standby()
    pid = service.worker_pid("a")
    before = service.show("a")["commands"]
    (tmp_path / str(pid)).write_text(how)
    eventually(lambda: is_served_by_another(service, pid), 60)
    rows = [row for row in events(service, "worker.hung") if row["pid"] == pid]
    assert [row["verdict"] for row in rows] == ["hung control"]
    assert events(service, "device.hung") == []
    assert service.show("a")["commands"] > before
    tells_of_hang(service, pid, "control")
    commands_go_on(service)
    verified(service)


def test_a_standby_that_does_not_answer_is_replaced(start: Start) -> None:
    service = start("load")
    (standby,) = service.call("status")["workers"]
    os.kill(standby["pid"], signal.SIGSTOP)
    eventually(lambda: not is_alive(standby["pid"]), 60)
    service.wait_for_standby()
    assert [row["pid"] for row in events(service, "worker.hung")] == [standby["pid"]]


def test_a_supervisor_that_slept_blames_nobody(start: Start, image: Path) -> None:
    """Both were stopped for longer than the limit: as when their host was suspended."""
    service = start("load")
    create(service, image)
    pid = stop_with_commands_in_flight(service, str(service.show("a")["journal"]))
    os.kill(service.supervisor_pid, signal.SIGSTOP)
    until_s = time.monotonic() + 3 * LIMIT_S
    eventually(lambda: time.monotonic() > until_s, 4 * LIMIT_S)
    os.kill(service.supervisor_pid, signal.SIGCONT)
    os.kill(pid, signal.SIGCONT)
    commands_go_on(service)
    assert looks(service, "a")["verdict"] in ("working", "idle")
    assert service.worker_pid("a") == pid
    assert events(service, "device.hung") == events(service, "worker.hung") == []
    verified(service)


@pytest.mark.host
def test_storage_that_does_not_answer_is_no_hang(start: Start, tmp_path: Path) -> None:
    service = start("fuse")
    make_image(service, tmp_path / "slow")
    expected = (tmp_path / "slow" / "disk.raw").read_bytes()
    found: list[list[bytes | int]] = []
    with FaultFs(tmp_path / "slow", tmp_path / "faultfs") as storage:
        config = tmp_path / "config.v1.json"
        config.write_text(f'{{"lowers": [{{"file": "{storage.mount_point}/layer.obd"}}]}}')
        service.call("device", "create", "a", "--image", str(config))
        pid = service.worker_pid("a")
        block_device = service.show("a")["block_device"]
        storage.hold("layer.obd")
        reader = threading.Thread(target=lambda: found.append(read_blocks(block_device)))
        reader.start()
        try:
            eventually(lambda: events(service, "device.slow"), 60)
            eventually(lambda: looks(service, "a")["age_s"] > 3 * LIMIT_S, 60)
            assert looks(service, "a")["verdict"] == "slow"
        finally:
            storage.clear()
            reader.join(60)
        assert not reader.is_alive()
        assert b"".join(block for block in found[0] if isinstance(block, bytes)) == expected
        assert len(found[0]) == BLOCKS
        assert service.worker_pid("a") == pid
        assert len(events(service, "device.slow")) == 1
        assert events(service, "device.hung") == events(service, "worker.hung") == []
        service.call("device", "remove", "a")
