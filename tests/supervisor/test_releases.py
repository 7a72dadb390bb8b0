"""Workers of several releases side by side. Real processes, fake rings, fake releases."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from obdsup.errors import ConfigError
from tests.conftest import eventually
from tests.supervisor.fake_service import FakeService

pytestmark = [pytest.mark.integration]


def release_of(pid: int) -> str:
    """The release a process runs from, by its command."""
    command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()
    return str(Path(command).parents[1])


def standby_releases(service: FakeService) -> list[str]:
    workers = service.client.call("status")["workers"]
    return [release_of(w["pid"]) for w in workers if w["state"] == "standby"]


def test_a_device_moves_to_another_release_and_back(service: FakeService) -> None:
    other = service.release("relB")
    service.create("a")
    own = release_of(service.worker_pid("a"))
    service.client.call("device.handover", name="a", release=str(other))
    assert release_of(service.worker_pid("a")) == str(other)
    service.client.call("device.handover", name="a", release="")
    assert release_of(service.worker_pid("a")) == own


def test_a_death_is_taken_over_by_the_release_the_device_is_pinned_to(
    service: FakeService,
) -> None:
    other = service.release("relB")
    service.create("a")
    service.create("b")
    service.client.call("device.handover", name="a", release=str(other))
    eventually(lambda: str(other) in standby_releases(service), 20)
    pid = service.kill_worker("a")
    shown = service.online_with_other_worker("a", pid)
    assert release_of(shown["worker"]["pid"]) == str(other)
    pid = service.kill_worker("b")
    shown = service.online_with_other_worker("b", pid)
    assert release_of(shown["worker"]["pid"]) != str(other)
    service.client.call("device.handover", name="a", release="")
    eventually(lambda: str(other) not in standby_releases(service), 20)


def test_the_pin_outlives_the_supervisor(service: FakeService) -> None:
    other = service.release("relB")
    service.create("a")
    service.client.call("device.handover", name="a", release=str(other))
    service.kill()
    service.start()
    pid = service.kill_worker("a")
    shown = service.online_with_other_worker("a", pid)
    assert release_of(shown["worker"]["pid"]) == str(other)


def test_a_release_that_is_gone_is_replaced_by_the_supervisors_own(service: FakeService) -> None:
    other = service.release("relB")
    service.create("a")
    service.client.call("device.handover", name="a", release=str(other))
    shutil.rmtree(other / "bin")
    for _ in range(2):  # the first may still find a standby of the release
        pid = service.kill_worker("a")
        shown = service.online_with_other_worker("a", pid)
    assert release_of(shown["worker"]["pid"]) != str(other)
    assert service.events("takeover.other_release")


def test_a_handover_to_no_release_is_refused(service: FakeService) -> None:
    made = service.create("a")
    with pytest.raises(ConfigError, match="no release"):
        service.client.call("device.handover", name="a", release=str(service.root / "none"))
    assert service.worker_pid("a") == made["worker"]["pid"]


def test_a_handover_to_a_release_that_fails_leaves_the_pin(service: FakeService) -> None:
    other = service.release("relB")
    service.create("a")
    own = release_of(service.worker_pid("a"))
    (service.root / "img" / "fail-drain").write_text("")
    with pytest.raises(Exception, match="planted failure of drain"):
        service.client.call("device.handover", name="a", release=str(other))
    (service.root / "img" / "fail-drain").unlink()
    pid = service.kill_worker("a")
    shown = service.online_with_other_worker("a", pid)
    assert release_of(shown["worker"]["pid"]) == own
