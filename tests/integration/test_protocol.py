"""Releases that speak other versions of the control protocol, or write another journal.

Real processes; the load checks every command of it. A release of the version before is a copy of
this one that says so: it refuses what that version does not have.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from chaos.rig.releases import make_release
from obdsup.errors import HandoffError
from obdsup.state import control, journal, messages
from obdsup.state.control import ControlClient
from tests.conftest import eventually
from tests.integration.service import CommandFailed, Service
from tests.integration.test_supervisor import commands_go_on, create, is_served_by_another, verified

pytestmark = [pytest.mark.integration]

NEWEST = messages.PROTOCOL_VERSION
SWAPS = int(os.environ.get("OBDSUP_PROTOCOL_SWAPS", "2"))
LAYOUT_AT = 8
CRC_AT = 124
OTHER_LAYOUT = 9


def speaking(root: Path, version: str, protocol: int) -> Path:
    """A release of that version which speaks up to that protocol."""
    said = (f"PROTOCOL_VERSION = {NEWEST}\n", f"PROTOCOL_VERSION = {protocol}\n")
    return make_release(root, version, {"state/messages.py": said})


def releases(service: Service) -> set[str]:
    return {row["worker"]["release"] for row in service.call("device", "list") if row["worker"]}


def events(service: Service, name: str) -> list[dict[str, Any]]:
    return [row["fields"] for row in service.call("events") if row["event"] == name]


def protocols(service: Service) -> set[int]:
    """What the supervisor agreed on with workers that got ready or were adopted lately."""
    last = service.call("events")[-1]["id"]
    living = {row["id"] for row in service.call("status")["workers"]}
    rows = [row for row in service.call("events") if row["id"] <= last]
    names = ("worker.ready", "worker.adopted")
    by_worker = {row["fields"]["worker"]: row["fields"]["protocol"] for row in rows
                 if row["event"] in names}  # fmt: skip
    return {by_worker[one] for one in living if one in by_worker}


def kill_worker(service: Service, name: str = "a") -> None:
    service.wait_for_standby()
    pid = service.worker_pid(name)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: is_served_by_another(service, pid, name), 30)


def swap(service: Service, to: Path, version: str, *options: str) -> None:
    report = service.call("upgrade", "--to", str(to), "--watch", "0.1s", *options)
    assert (report["state"], report["left"]) == ("done", [])
    assert releases(service) == {version}


def test_workers_of_the_version_before_are_driven_under_load(
    load_service: Service, image: Path
) -> None:
    service = load_service
    create(service, image)
    commands_go_on(service)
    own = Path(service.call("upgrade", "status")["release_of_supervisor"])
    before = speaking(service.root / "before", "0.0.9", NEWEST - 1)
    assert protocols(service) == {NEWEST}
    for _ in range(SWAPS):
        swap(service, before, "0.0.9", "--workers-only")
        assert NEWEST - 1 in protocols(service)
        kill_worker(service)  # its successor is told what it died of, in the older form
        assert releases(service) == {"0.0.9"}
        commands_go_on(service)
        swap(service, own, "0.1.0", "--workers-only")
        commands_go_on(service)
    assert service.show("a")["takeovers"] == SWAPS
    assert service.show("a")["resets"] == 0
    verified(service)


def test_a_supervisor_of_the_version_before_drives_newer_workers_under_load(
    load_service: Service, image: Path
) -> None:
    """It is what a supervisor that was rolled back finds: workers that it must adopt."""
    service = load_service
    create(service, image)
    commands_go_on(service)
    pid = service.worker_pid("a")
    before = speaking(service.root / "before", "0.0.9", NEWEST - 1)
    service.call("reload", "--to", str(before))
    eventually(lambda: service.call("status")["release"] == "0.0.9", 60)
    assert service.worker_pid("a") == pid, "adopted"
    assert not events(service, "worker.refused")
    assert protocols(service) == {NEWEST - 1}
    assert releases(service) == {"0.1.0"}
    kill_worker(service)
    commands_go_on(service)
    assert service.show("a")["resets"] == 0
    verified(service)


def test_workers_of_an_unknown_version_are_refused_by_name_and_taken_over_drained(
    load_service: Service, image: Path
) -> None:
    service = load_service
    for name in ("a", "b"):
        create(service, image, name)
        commands_go_on(service, name)
    far = speaking(service.root / "far", "9.0.0", 99)
    with pytest.raises(CommandFailed, match="98 to 99, this supervisor 1 to 2") as caught:
        service.call("upgrade", "--to", str(far))
    assert caught.value.code == 10
    assert releases(service) == {"0.1.0"}, "nothing moved"
    service.call("reload", "--to", str(far))  # the supervisor goes first then
    eventually(lambda: service.call("status")["release"] == "9.0.0", 60)
    eventually(lambda: releases(service) == {"9.0.0"}, 60)
    for refused in events(service, "worker.refused"):
        assert "control protocol 98 to 99, this release speaks 1 to 2" in refused["reason"]
        assert not Path(f"/proc/{refused['pid']}").exists(), "a zombie is left"
    assert not events(service, "worker.fenced"), "they were told to end, and drained"
    for name in ("a", "b"):
        commands_go_on(service, name)
        shown = service.show(name)
        assert (shown["recovered"], shown["resets"]) == (0, 0), "something was in flight"
        verified(service, name)


def test_a_release_whose_workers_nobody_understands_is_not_waited_for(
    load_service: Service, image: Path
) -> None:
    """Asked for by hand, past the check of a rollout."""
    service = load_service
    create(service, image)
    far = speaking(service.root / "far", "9.0.0", 99)
    client = ControlClient(str(service.run_dir / "obdsup.sock"), timeout_s=60)
    with pytest.raises(HandoffError, match="control protocol 1 to 2, this release speaks 98 to"):
        client.call("device.handover", name="a", release=str(far))
    assert releases(service) == {"0.1.0"}
    commands_go_on(service)
    verified(service)


# -- the command line and the supervisor ---------------------------------------------------------
def commanding(root: Path, version: str, protocol: int) -> Path:
    """A release whose command line and supervisor speak up to that version of their protocol."""
    said = (f"CONTROL_VERSION = {control.CONTROL_VERSION}\n", f"CONTROL_VERSION = {protocol}\n")
    return make_release(root, version, {"state/control.py": said})


def status_by(service: Service, release: Path) -> subprocess.CompletedProcess[str]:
    """``obdsup status`` of that release."""
    command = [str(release / "bin" / "python"), "-P", "-m", "obdsup.cli"]
    options = ["--run-dir", str(service.run_dir), "--json", "status"]
    return subprocess.run([*command, *options], capture_output=True, text=True, timeout=60)


def test_command_lines_of_neighbouring_releases_work_and_others_are_refused_by_name(
    load_service: Service,
) -> None:
    service = load_service
    next_one = commanding(service.root / "next", "0.2.0", control.CONTROL_VERSION + 1)
    far = commanding(service.root / "far", "9.0.0", 99)
    newer = status_by(service, next_one)
    assert json.loads(newer.stdout)["release"] == "0.1.0", newer.stderr
    refused = status_by(service, far)
    assert refused.returncode == 18
    assert "control protocol 99, this supervisor reads 1 to 1" in refused.stdout + refused.stderr
    service.call("reload", "--to", str(next_one))
    eventually(lambda: service.call("status")["release"] == "0.2.0", 60)


# -- journals --------------------------------------------------------------------------------------
def with_layout(path: str, version: int) -> None:
    """Makes the journal one of another layout, with a header that is whole otherwise."""
    fd = os.open(path, os.O_RDWR)
    try:
        raw = bytearray(os.pread(fd, CRC_AT, 0))
        struct.pack_into("<I", raw, LAYOUT_AT, version)
        os.pwrite(fd, raw[LAYOUT_AT : LAYOUT_AT + 4], LAYOUT_AT)
        os.pwrite(fd, struct.pack("<I", journal.crc32c(bytes(raw))), CRC_AT)
    finally:
        os.close(fd)


def test_a_worker_refuses_a_journal_of_another_layout_by_name(
    load_service: Service, image: Path
) -> None:
    service = load_service
    create(service, image)
    commands_go_on(service)
    path, pid = str(service.show("a")["journal"]), service.worker_pid("a")
    service.kill_supervisor()
    os.kill(pid, signal.SIGKILL)
    with_layout(path, OTHER_LAYOUT)
    service.start()
    eventually(lambda: is_served_by_another(service, pid), 30)
    (reset,) = events(service, "ring.reset")
    assert f"layout_version: expected {journal.LAYOUT_VERSION}" in reset["reason"]
    assert str(OTHER_LAYOUT) in reset["reason"]
    commands_go_on(service)
    verified(service)


def test_a_device_with_a_journal_of_another_layout_is_handed_over_drained(
    load_service: Service, image: Path
) -> None:
    """As a worker of a later release leaves it: it serves, and ours do not read what it wrote."""
    service = load_service
    create(service, image)
    commands_go_on(service)
    path, pid = str(service.show("a")["journal"]), service.worker_pid("a")
    with_layout(path, OTHER_LAYOUT)
    service.wait_for_standby()
    service.call("device", "handover", "a")
    (drained,) = events(service, "handoff.drained")
    assert (drained["journal"], drained["reads"]) == (OTHER_LAYOUT, journal.LAYOUT_VERSION)
    assert is_served_by_another(service, pid)
    assert not events(service, "ring.reset")
    assert service.show("a")["recovered"] == 0
    commands_go_on(service)
    verified(service)
