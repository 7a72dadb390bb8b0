"""After a boot of the host: what was marked comes back with its data, the rest is reported."""

from __future__ import annotations

import shutil

import pytest

from obdsup.errors import ConfigError
from tests.conftest import eventually
from tests.supervisor.fake_service import FakeService

pytestmark = [pytest.mark.integration]


def online(service: FakeService, name: str) -> bool:
    return bool(service.show(name)["phase"] == "online")


def test_marked_devices_come_back_as_they_were(service: FakeService) -> None:
    before = {name: service.create(name, writable=True, restore=True) for name in ("a", "b")}
    service.create("gone", writable=True)
    upper = service.root / "state" / "devices" / "a" / "upper" / "upper.data"
    upper.write_bytes(b"precious")
    service.kill()
    service.reboot()
    service.start()
    for name, row in before.items():
        eventually(lambda name=name: online(service, name), 30)  # type: ignore[misc]
        now = service.show(name)
        same = ("uuid", "image", "size_bytes", "writable")
        assert [now[key] for key in same] == [row[key] for key in same]
    assert upper.read_bytes() == b"precious"
    assert {row["name"] for row in service.client.call("device.list")} == {"a", "b"}
    eventually(lambda: {row["device"] for row in service.events("device.restored")} == {"a", "b"})
    assert [row["device"] for row in service.events("device.void")] == ["gone"]
    service.wait_for_standby()
    pid = service.kill_worker("a")
    service.online_with_other_worker("a", pid)


def test_a_device_that_can_not_be_made_yet_is_tried_again(service: FakeService) -> None:
    service.create("a", writable=True, restore=True)
    folder = service.root / "state" / "devices" / "a" / "upper"
    service.kill()
    service.reboot()
    away = folder.rename(folder.with_name("away"))  # as on a disk that is not mounted yet
    service.start()
    eventually(lambda: "is gone" in str(service.show("a")["reason"]), 30)
    assert service.show("a")["phase"] == "restoring"
    assert not folder.exists()
    service.kill()
    service.start()
    away.rename(folder)
    eventually(lambda: online(service, "a"), 30)
    service.remove("a")
    assert service.client.call("device.list") == []


def test_a_device_that_waits_for_its_restore_can_be_removed(service: FakeService) -> None:
    service.create("a", restore=True)
    service.kill()
    service.reboot()
    (service.root / "run" / "rings").mkdir()
    (service.rings() / "fail-create").touch()
    service.start()
    eventually(lambda: "planted" in str(service.show("a")["reason"]), 30)
    service.remove("a")
    assert service.client.call("device.list") == []


@pytest.mark.parametrize(
    "fields", [{"restore": 1}, {"devices_per_worker": 0}, {"memory_max": 4096}, {"memory_max": "1"}]
)
def test_options_that_are_not_usable_are_refused(
    service: FakeService, fields: dict[str, object]
) -> None:
    with pytest.raises(ConfigError, match=next(iter(fields))):
        service.create("a", **fields)


def test_marked_devices_come_back_when_the_run_directory_went_with_the_host(
    service: FakeService,
) -> None:
    """A tmpfs: with the boot id all of it is gone, the lock and the sockets too."""
    before = service.create("a", writable=True, restore=True)
    upper = service.root / "state" / "devices" / "a" / "upper" / "upper.data"
    upper.write_bytes(b"precious")
    service.kill()
    service.reboot()
    shutil.rmtree(service.root / "run")
    service.start()
    eventually(lambda: online(service, "a"), 30)
    now = service.show("a")
    same = ("uuid", "image", "size_bytes", "writable", "upper")
    assert [now[key] for key in same] == [before[key] for key in same]
    assert upper.read_bytes() == b"precious"
    assert not service.client.call("status")["state_rebuilt"]
