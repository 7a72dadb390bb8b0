"""state.db and all copies of its rows are gone: devices are made anew from what lives, or reported;
a row that may be wrong is never made.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest

from obdsup.errors import AlreadyServed, StateError
from obdsup.state import tables
from obdsup.state.database import Database
from obdsup.state.device import DeviceOptions, DeviceRow
from obdsup.state.device_spec import row_of_spec, spec_of
from tests.conftest import eventually
from tests.supervisor.fake_service import FakeService

ROW = DeviceRow(
    "a", "6b1a4c2e-0000-4000-8000-000000000001", "/img/config.v1.json", ("/l0", "/l1"), "/u.data",
    "/u.index", 1 << 20, "fuse", "serving", 12.5, {"socket": "/s", "is_read_only": 0},
    generation=7, options=DeviceOptions(True, 4, 1 << 30), release="/releases/1",
)  # fmt: skip


def test_a_spec_holds_all_that_does_not_change() -> None:
    assert row_of_spec(spec_of(ROW), ROW.image_message(), "serving", 7) == (ROW, ())
    read_only = replace(ROW, upper_data=None, upper_index=None)
    made = row_of_spec(spec_of(read_only), read_only.image_message(), "serving", 7)
    assert made == (read_only, ())


def test_options_of_another_release_are_left_out_or_get_defaults() -> None:
    options = {"is_restored": True, "devices_per_worker": "4", "of_tomorrow": None}
    spec = {**spec_of(ROW), "options": options}
    row, defaulted = row_of_spec(spec, ROW.image_message(), "serving", 7)
    assert row.options == DeviceOptions(is_restored=True)
    assert set(defaulted) == {"devices_per_worker", "memory_max_bytes", "is_foreign"}


@pytest.mark.parametrize("field", list(spec_of(ROW)))
def test_a_spec_that_lacks_something_is_refused_by_name(field: str) -> None:
    spec = {name: value for name, value in spec_of(ROW).items() if name != field}
    with pytest.raises(StateError, match=field):
        row_of_spec(spec, ROW.image_message(), "serving", 7)


@pytest.mark.parametrize("told", [(None, None), ({}, {}), (spec_of(ROW), {"lowers": 1})])
def test_a_worker_that_was_told_nothing_makes_no_row(told: tuple[Any, Any]) -> None:
    with pytest.raises(StateError):
        row_of_spec(*told, "serving", 7)


# -- a whole supervisor ----------------------------------------------------------------------------
KEPT = ("name", "uuid", "image", "size_bytes", "writable", "phase", "provider", "created")
CHOSEN = ("devices_per_worker", "memory_max_bytes", "upper", "release", "generation")
OPTIONS = {"restore": True, "devices_per_worker": 2, "memory_max": 1 << 30}


def facts(service: FakeService) -> list[list[object]]:
    return [[row[key] for key in KEPT] for row in service.client.call("device.list")]


def lose_rows(service: FakeService) -> None:
    """All that is written down about devices, but for their journals."""
    service.kill()
    for path in (service.root / "state").glob("state.db*"):
        path.unlink()
    for path in (service.root / "run" / "devices").glob("*/row.json"):
        path.unlink()


def what_is_wrong(service: FakeService, name: str) -> str:
    found = service.client.call("status")["problems"]
    return "; ".join(problem["what"] for problem in found if problem["device"] == name)


def edit_row(service: FakeService, **changes: Any) -> None:
    """As a state.db of another time would have it."""
    database = Database(service.root / "state" / "state.db")
    rows: Any = database.read(tables.load_devices)
    database.commit(tables.put_device(replace(rows[0], **changes)))
    database.close()


@pytest.mark.integration
def test_devices_are_made_anew_from_their_workers(service: FakeService) -> None:
    service.create("a", writable=True, **OPTIONS)
    service.create("b")
    before, shown = facts(service), service.show("a")
    pids = {name: service.worker_pid(name) for name in ("a", "b")}
    lose_rows(service)
    service.start()
    eventually(lambda: facts(service) == before, 30)
    assert {name: service.worker_pid(name) for name in ("a", "b")} == pids
    now = service.show("a")
    assert [now[key] for key in CHOSEN] == [shown[key] for key in CHOSEN]
    assert {row["device"] for row in service.events("device.rebuilt")} == {"a", "b"}
    assert "made anew from its worker" in what_is_wrong(service, "a")
    assert "its worker" in service.client.call("status")["state_rebuilt"]
    service.wait_for_standby()
    service.online_with_other_worker("a", service.kill_worker("a"))
    service.kill()
    service.start()  # and now from the row that was made
    assert facts(service) == before
    assert not what_is_wrong(service, "a")


@pytest.mark.integration
def test_devices_are_made_anew_from_their_rings_when_nobody_serves(service: FakeService) -> None:
    service.create("a", writable=True, **OPTIONS)
    service.create("b")
    before = {row[0]: row[1:-1] for row in facts(service)}
    pids = {name: service.worker_pid(name) for name in ("a", "b")}
    lose_rows(service)
    for pid in pids.values():
        os.kill(pid, 9)
    service.start()
    eventually(lambda: {row[0]: row[1:-1] for row in facts(service)} == before, 60)
    for name, pid in pids.items():
        service.online_with_other_worker(name, pid)
    told = {row["device"]: row["fields"]["defaulted"] for row in service.events("device.rebuilt")}
    assert told.keys() == {"a", "b"}
    assert "devices_per_worker" in told["a"]
    assert service.show("a")["generation"] == 2, "recovered with its journal"


@pytest.mark.integration
def test_a_config_that_was_edited_since_makes_no_row(service: FakeService) -> None:
    service.create("a", writable=True)
    upper = service.root / "state" / "devices" / "a" / "upper" / "upper.data"
    upper.write_bytes(b"precious")
    pid = service.worker_pid("a")
    config = service.root / "img" / "config.v1.json"
    lose_rows(service)
    os.kill(pid, 9)
    os.utime(config)
    service.start()
    eventually(lambda: "changed after the device was made" in what_is_wrong(service, "a"), 30)
    assert service.client.call("device.list") == []
    with pytest.raises(AlreadyServed, match="lost"):
        service.create("a", writable=True)
    assert upper.read_bytes() == b"precious"


@pytest.mark.integration
def test_a_row_of_another_device_of_that_name_is_not_used(service: FakeService) -> None:
    service.create("a")
    pid = service.worker_pid("a")
    service.kill()
    (service.root / "run" / "devices" / "a" / "row.json").unlink()
    edit_row(service, uuid="00000000-0000-4000-8000-000000000009")
    service.start()
    eventually(lambda: "its row is of 00000000" in what_is_wrong(service, "a"), 30)
    assert service.client.call("device.list") == []
    (worker,) = [row for row in service.client.call("status")["workers"] if row["pid"] == pid]
    assert worker["devices"] == ["a"], "it serves on"
    assert "reset_ring a" not in service.provider_calls()


@pytest.mark.integration
def test_a_worker_without_socket_and_row_is_found_and_replaced(service: FakeService) -> None:
    service.create("a")
    pid = service.worker_pid("a")
    before = [row[:-1] for row in facts(service)]
    lose_rows(service)
    for path in (service.root / "run" / "workers").glob("*.sock"):
        path.unlink()
    service.start()
    eventually(lambda: [row[:-1] for row in facts(service)] == before, 60)
    service.online_with_other_worker("a", pid)
