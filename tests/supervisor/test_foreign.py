"""Devices of others: rings found in a fake kernel tree, notices answered, outcomes reported."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from obdsup.errors import (
    AlreadyServed,
    ConfigError,
    FormatError,
    ObdError,
    ProviderError,
    WorkerLost,
)
from obdsup.supervisor.foreign_listener import ForeignListener, status_of
from obdsup.supervisor.provider.foreign_rings import (
    DAEMON_NAME,
    ForeignRing,
    foreign_daemons,
    foreign_rings,
)
from obdsup.supervisor.provider.tcmu_foreign import ForeignTcmuProvider
from obdsup.supervisor.provider.tcmu_netlink import NoticesLost, take_only_listener
from obdsup.supervisor.provider.tcmu_notice import Notice, NoticeKind
from obdsup.supervisor.result_file import write_result
from tests.conftest import eventually
from tests.supervisor.fake_configfs import FakeConfigfs

CONFIG = "overlaybd//images/web/config.v1.json"


def add_uio(configfs: FakeConfigfs, number: int, name: str) -> None:
    uio = configfs.roots.sys / "class" / "uio" / f"uio{number}"
    (uio / "maps" / "map0").mkdir(parents=True)
    (uio / "name").write_text(f"{name}\n")
    (uio / "maps" / "map0" / "size").write_text("0x1000\n")


@pytest.fixture
def configfs(tmp_path: Path) -> FakeConfigfs:
    made = FakeConfigfs(tmp_path)
    add_uio(made, 0, f"tcm-user/9/dev_1/{CONFIG}")
    add_uio(made, 1, f"tcm-user/9/dev_2/{CONFIG};seven")
    add_uio(made, 2, "tcm-user/1073741824/obdsup-x/obdsup//x")
    add_uio(made, 3, "tcm-user/9/other/zbc/x")
    add_uio(made, 4, "some other uio")
    return made


# --- rings ------------------------------------------------------------------------------------


def test_rings_of_overlaybd_are_found_and_no_others(configfs: FakeConfigfs) -> None:
    one, two = sorted(foreign_rings(configfs.roots), key=lambda ring: ring.device)
    assert (one.hba, one.device, one.path, one.dev_id) == (9, "dev_1", CONFIG[10:], "")
    assert (two.path, two.dev_id) == (CONFIG[10:], "seven")
    assert one.uuid != two.uuid
    assert one.uuid == ForeignRing(9, "dev_1", "overlaybd//else").uuid
    assert ForeignRing.of_ids(one.ids) == one


def test_a_running_overlaybd_tcmu_is_found_by_its_name(configfs: FakeConfigfs) -> None:
    assert foreign_daemons(configfs.roots) == []
    for pid, name in ((7, DAEMON_NAME), (8, "bash")):
        process = configfs.roots.proc / str(pid)
        process.mkdir()
        (process / "comm").write_text(f"{name}\n")
    assert foreign_daemons(configfs.roots) == [7]


def provider_of(configfs: FakeConfigfs) -> ForeignTcmuProvider:
    return ForeignTcmuProvider(roots=configfs.roots, configfs=configfs)


def test_a_device_made_again_for_another_image_is_another(configfs: FakeConfigfs) -> None:
    provider = provider_of(configfs)
    assert provider.exists(ForeignRing(9, "dev_1", CONFIG).ids)
    assert not provider.exists(ForeignRing(9, "dev_1", f"{CONFIG};8").ids)
    assert not provider.exists(ForeignRing(90, "dev_1", CONFIG).ids)
    assert not provider.exists(ForeignRing(9, "dev_", CONFIG).ids)


@pytest.mark.parametrize(("text", "waits"), [("1", True), ("0", False), ("-1", False), ("", True)])
def test_who_waits_for_answers_is_read_from_configfs(
    configfs: FakeConfigfs, text: str, waits: bool
) -> None:
    core = configfs.roots.sys / "kernel/config/target/core/user_9/dev_1/attrib"
    core.mkdir(parents=True)
    (core / "nl_reply_supported").write_text(text)
    assert provider_of(configfs).waits_for_answers(9, "dev_1") is waits


def test_disks_are_found_by_their_luns(configfs: FakeConfigfs) -> None:
    target = configfs.roots.sys / "kernel" / "config" / "target"
    core = target / "core" / "user_9" / "dev_1"
    core.mkdir(parents=True)
    group = target / "loopback" / "naa.1990000000000001" / "tpgt_1"
    (group / "lun" / "lun_0").mkdir(parents=True)
    (group / "address").write_text("3:0:1\n")
    provider = provider_of(configfs)
    ids = ForeignRing(9, "dev_1", CONFIG).ids
    assert provider.publish(ids) == ""
    (group / "lun" / "lun_0" / "dev_1").symlink_to(core)
    assert provider.publish(ids) == ""  # linked, and sd has not come yet
    block = configfs.roots.sys / "class/scsi_device/3:0:1:0/device/block/sdx"
    block.mkdir(parents=True)
    assert provider.disks() == {(9, "dev_1"): str(configfs.roots.dev / "sdx")}


# --- outcomes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), errno.EINVAL),
        (ConfigError("x", errno=errno.ENOENT), errno.ENOENT),
        (ConfigError("x", errno=errno.EAGAIN), errno.EINVAL),  # would be tried again for ever
        (ConfigError("x", errno=errno.EINTR), errno.EINVAL),
        (FormatError("p", 0, 1, 2), errno.EINVAL),
        (AlreadyServed("x"), errno.EBUSY),
        (WorkerLost("x"), errno.ETIMEDOUT),
        (ObdError("x"), errno.EIO),
        (ZeroDivisionError(), errno.EIO),
    ],
)
def test_every_error_has_a_number(error: Exception, code: int) -> None:
    assert status_of(error) == -code


def test_result_file_says_how_it_went(tmp_path: Path) -> None:
    path = tmp_path / "result"
    write_result(str(path), ConfigError("lowers:\nwrong", hint="do better"))
    assert path.read_text() == "failed:lowers: wrong (do better)"
    write_result(str(path), None)
    assert path.read_text() == "success"
    write_result("", None)
    write_result(str(tmp_path / "none" / "result"), None)  # logged only


# --- notices ------------------------------------------------------------------------------------


class FakeNetlink:
    """Gives out what it was fed; collects the answers."""

    def __init__(self) -> None:
        self.fed: list[Notice | type[Exception]] = []
        self.answers: dict[int, int] = {}
        self.members: set[int] = set()

    def read(self) -> Iterator[Notice]:
        while self.fed:
            one = self.fed.pop(0)
            if isinstance(one, type):
                raise one
            yield one

    def answer(self, notice: Notice, status: int) -> None:
        assert notice.device_id not in self.answers, "answered twice"
        self.answers[notice.device_id] = status

    def others(self, roots: object) -> set[int]:
        return self.members


class FakeDevices:
    """``slow`` devices wait for ``gate``."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.failures: dict[str, Exception] = {}
        self.slow: set[str] = set()
        self.gate = threading.Event()

    def all(self) -> list[object]:
        return []

    def find(self, ring: ForeignRing) -> None:
        return None

    def serve(self, ring: ForeignRing, progress: object) -> None:
        if ring.device in self.slow:
            assert self.gate.wait(30)
        self.calls.append(("serve", ring.device))
        if ring.device in self.failures:
            raise self.failures[ring.device]

    def let_go(self, ring: ForeignRing) -> None:
        self.calls.append(("let_go", ring.device))

    def resize(self, ring: ForeignRing, size_bytes: int) -> None:
        self.calls.append(("resize", ring.device, size_bytes))


class FakeEvents:
    def __init__(self) -> None:
        self.reasons: list[str] = []

    def emit(self, name: str, device: str = "", **fields: Any) -> None:
        self.reasons.append(str(fields.get("reason")))


class Bench:
    def __init__(self, configfs: FakeConfigfs) -> None:
        self.netlink, self.devices, self.events = FakeNetlink(), FakeDevices(), FakeEvents()
        self.roots = configfs.roots
        self.listener = ForeignListener(
            cast(Any, self.devices), provider_of(configfs), cast(Any, self.events), configfs.roots
        )

    def hear(self, *notices: Notice | type[Exception]) -> None:
        self.netlink.fed = list(notices)
        self.listener._netlink = cast(Any, self.netlink)
        self.listener._read()

    def wait_for(self, count: int) -> dict[int, int]:
        eventually(lambda: len(self.netlink.answers) >= count and not self.listener._pending)
        return self.netlink.answers


@pytest.fixture
def bench(configfs: FakeConfigfs) -> Bench:
    return Bench(configfs)


def added(number: int, config: str = CONFIG) -> Notice:
    return Notice(NoticeKind.ADDED, number, 9, f"dev_{number}", config)


def test_a_slow_image_delays_nobody_and_everybody_is_answered(bench: Bench) -> None:
    bench.devices.slow = {"dev_0", "dev_1"}
    bench.devices.failures = {"dev_1": WorkerLost("silent"), "dev_2": ConfigError("typed")}
    bench.hear(*[added(number) for number in range(100)])
    eventually(lambda: len(bench.netlink.answers) == 98)
    assert not {0, 1} & set(bench.netlink.answers)
    bench.devices.gate.set()
    answers = bench.wait_for(100)
    assert answers[1] == -errno.ETIMEDOUT
    assert answers[2] == -errno.EINVAL
    assert sum(answers.values()) == -errno.ETIMEDOUT - errno.EINVAL


def test_a_bug_is_an_answer_too(bench: Bench) -> None:
    bench.devices.failures = {"dev_3": ZeroDivisionError()}
    bench.hear(added(3))
    assert bench.wait_for(1) == {3: -errno.EIO}


def test_removal_and_resize_are_carried_out(bench: Bench) -> None:
    removed = Notice(NoticeKind.REMOVED, 1, 9, "dev_1", CONFIG)
    resized = Notice(NoticeKind.RECONFIG, 2, 9, "dev_2", CONFIG, 4096)
    renamed = Notice(NoticeKind.RECONFIG, 3, 9, "dev_3", CONFIG)
    bench.hear(removed, resized, renamed)
    assert bench.wait_for(3) == {1: 0, 2: 0, 3: -errno.EOPNOTSUPP}
    assert ("let_go", "dev_1") in bench.devices.calls
    assert ("resize", "dev_2", 4096) in bench.devices.calls


def test_our_own_devices_are_not_answered_for(bench: Bench) -> None:
    bench.hear(added(1, "obdsup//x"), added(2))
    assert bench.wait_for(1) == {2: 0}
    assert ("serve", "dev_1") not in bench.devices.calls


@pytest.mark.parametrize(("members", "answers"), [(set(), {1: 0, 2: 0}), ({55}, {2: 0})])
def test_devices_of_other_programs_are_answered_for_when_nobody_else_is_there(
    bench: Bench, members: set[int], answers: dict[int, int]
) -> None:
    bench.netlink.members = members
    bench.hear(added(1, "zbc/x"), added(2))
    assert bench.wait_for(len(answers)) == answers
    assert ("serve", "dev_1") not in bench.devices.calls


def test_a_running_overlaybd_tcmu_has_its_own_devices(bench: Bench) -> None:
    process = bench.roots.proc / "77"
    process.mkdir()
    (process / "comm").write_text(f"{DAEMON_NAME}\n")
    bench.hear(added(1))
    eventually(lambda: not bench.listener._pending)
    assert bench.netlink.answers == {}
    assert bench.devices.calls == []
    with pytest.raises(AlreadyServed, match="77"):
        ForeignListener(
            cast(Any, bench.devices), cast(Any, None), cast(Any, None), bench.roots
        ).start()


def test_after_lost_notices_what_is_there_is_served(bench: Bench, configfs: FakeConfigfs) -> None:
    parameters = configfs.roots.sys / "module" / "target_core_user" / "parameters"
    parameters.mkdir()
    bench.listener.left = {ForeignRing(9, "dev_2", f"{CONFIG};seven")}  # an operator's to adopt
    for number in (0, 1):
        (configfs.roots.sys / "class" / "uio" / f"uio{number}" / "dev").write_text("240:0\n")
    bench.hear(NoticesLost, added(5))
    eventually(lambda: ("serve", "dev_1") in bench.devices.calls)
    assert ("serve", "dev_2") not in bench.devices.calls
    assert (parameters / "reset_netlink").read_text() == "1"
    assert (parameters / "block_netlink").read_text() == "0"
    assert bench.wait_for(1) == {5: 0}
    assert "lost" in bench.events.reasons[0]


def test_one_listener_holds_a_lock_that_only_its_owner_can_open(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    fd = take_only_listener(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(AlreadyServed, match="another obdsup supervisor"):
        take_only_listener(path)
    os.close(fd)
    os.close(take_only_listener(path))


def test_a_link_in_the_locks_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ProviderError, match="lock"):
        take_only_listener(tmp_path / "lock")
    assert not (tmp_path / "elsewhere").exists()
