"""The tcmu provider: names and steps on a fake kernel tree, the contract on the real one."""

from __future__ import annotations

import dataclasses
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from guest.checks.provider_contract import run_contract
from obdsup.errors import ProviderError
from obdsup.supervisor.provider.base import DeviceGeometry, ProviderIds
from obdsup.supervisor.provider.configfs import Configfs, is_configfs_mounted
from obdsup.supervisor.provider.fuse import FuseProvider
from obdsup.supervisor.provider.kernel_files import KernelRoots, holders_of, wait_for
from obdsup.supervisor.provider.scsi_disk import ScsiDisk, require_unused
from obdsup.supervisor.provider.tcmu import TcmuProvider, device_config, ids_of
from obdsup.supervisor.provider.uio import find_uio
from tests.supervisor.fake_configfs import FakeConfigfs, Interrupted

UUID = "0f0e0d0c-0b0a-4908-8706-050403020100"
GEOMETRY = DeviceGeometry("web", UUID, 64 << 20, False, "/images/web/config.v1.json")


def _provider(root: Path) -> tuple[TcmuProvider, FakeConfigfs]:
    configfs = FakeConfigfs(root)
    return TcmuProvider(roots=configfs.roots, configfs=configfs), configfs


# --- names ------------------------------------------------------------------------------------


def test_ids_follow_from_the_uuid_alone() -> None:
    renamed = dataclasses.replace(GEOMETRY, name="other")
    assert ids_of(GEOMETRY) == ids_of(GEOMETRY)
    assert ids_of(renamed)["hba"] == ids_of(GEOMETRY)["hba"]
    assert ids_of(renamed)["target_wwn"] == ids_of(GEOMETRY)["target_wwn"]


def test_ids_of_thousands_of_devices_are_distinct() -> None:
    many = [
        ids_of(dataclasses.replace(GEOMETRY, uuid=f"00000000-0000-4000-8000-{number:012x}"))
        for number in range(3000)
    ]
    wwns = [str(ids[key]) for ids in many for key in ("target_wwn", "nexus_wwn")]
    assert len(set(wwns)) == 6000
    assert len({ids["hba"] for ids in many}) == 3000
    assert all(2**30 <= int(ids["hba"]) < 2**31 for ids in many)


@pytest.mark.parametrize("name", ["", ".", "../x", "a/b", "a b", "-x", "x" * 129])
def test_names_that_configfs_could_misread_are_refused(name: str) -> None:
    with pytest.raises(ProviderError, match="configfs name"):
        ids_of(dataclasses.replace(GEOMETRY, name=name))


@pytest.mark.parametrize("size_bytes", [0, -512, 511, 513])
def test_sizes_that_are_no_whole_sectors_are_refused(size_bytes: int) -> None:
    with pytest.raises(ProviderError, match="512"):
        ids_of(dataclasses.replace(GEOMETRY, size_bytes=size_bytes))


@pytest.mark.parametrize("path", ["/a,b/c.json", "/a b.json", "/a\nb", "/" + "x" * 250, "/ü" * 90])
def test_config_paths_that_tcmu_can_not_hold_give_way_to_the_name(path: str) -> None:
    assert device_config(path, "web") == "obdsup/web"


def test_config_path_is_the_dev_config() -> None:
    assert device_config("/images/web.json", "web") == "obdsup//images/web.json"


def test_configfs_mount_is_recognised_by_type_and_place() -> None:
    line = "25 20 0:22 / /sys/kernel/config rw,nosuid - configfs configfs rw\n"
    assert is_configfs_mounted(line, Path("/sys/kernel/config"))
    assert not is_configfs_mounted(line, Path("/sys/kernel"))
    assert not is_configfs_mounted(
        line.replace("- configfs", "- tmpfs"), Path("/sys/kernel/config")
    )


# --- steps on the fake tree -------------------------------------------------------------------


def test_life_of_a_device_leaves_nothing_behind(tmp_path: Path) -> None:
    provider, configfs = _provider(tmp_path)
    ids = provider.create(GEOMETRY)
    core = configfs.roots.sys / f"kernel/config/target/core/user_{ids['hba']}/obdsup-web"
    assert (core / "attrib/cmd_time_out").read_text() == "0"
    assert "nl_reply_supported=-1" in (core / "control").read_text()
    assert provider.publish(ids) == str(configfs.roots.dev / "sdx")
    device = configfs.roots.sys / "class/scsi_device/3:0:1:0/device/block/sdx/device"
    assert (device / "timeout").read_text() == "3600\n"
    provider.retract(ids)
    provider.destroy(ids)
    target = configfs.roots.sys / "kernel" / "config" / "target"
    assert not list((target / "core").iterdir())
    assert not list((target / "loopback").iterdir())
    assert not provider.exists(ids)


def _make(provider: TcmuProvider, ids: ProviderIds) -> None:
    assert provider.create(GEOMETRY) == ids
    provider.publish(ids)


def _take_down(provider: TcmuProvider, ids: ProviderIds) -> None:
    provider.retract(ids)
    provider.destroy(ids)


def _count_operations(root: Path, steps: Callable[[TcmuProvider, ProviderIds], None]) -> int:
    provider, configfs = _provider(root)
    if steps is _take_down:
        _make(provider, ids_of(GEOMETRY))
    before = len(configfs.operations)
    steps(provider, ids_of(GEOMETRY))
    return len(configfs.operations) - before


@pytest.mark.parametrize("then", [_make, _take_down])
def test_making_completes_or_undoes_what_an_interrupted_making_left(
    tmp_path: Path, then: Callable[[TcmuProvider, ProviderIds], None]
) -> None:
    total = _count_operations(tmp_path / "whole", _make)
    assert total > 10
    for deadline in range(total):
        provider, configfs = _provider(tmp_path / f"cut-{deadline}")
        configfs.deadline = deadline
        with pytest.raises(Interrupted):
            _make(provider, ids_of(GEOMETRY))
        configfs.deadline = None
        then(provider, ids_of(GEOMETRY))
        assert provider.exists(ids_of(GEOMETRY)) == (then is _make)
        if then is _take_down:
            core = configfs.roots.sys / "kernel" / "config" / "target" / "core"
            assert not list(core.iterdir()), f"left after an interruption at {deadline}"


@pytest.mark.parametrize("then", [_make, _take_down])
def test_teardown_that_was_interrupted_can_be_completed_or_undone(
    tmp_path: Path, then: Callable[[TcmuProvider, ProviderIds], None]
) -> None:
    ids = ids_of(GEOMETRY)
    total = _count_operations(tmp_path / "whole", _take_down)
    assert total > 5
    for deadline in range(total):
        provider, configfs = _provider(tmp_path / f"cut-{deadline}")
        _make(provider, ids)
        configfs.deadline = len(configfs.operations) + deadline
        with pytest.raises(Interrupted):
            _take_down(provider, ids)
        configfs.deadline = None
        then(provider, ids)
        assert provider.exists(ids) == (then is _make)


def test_a_device_that_nobody_remembers_is_found_with_what_made_it(tmp_path: Path) -> None:
    provider, _ = _provider(tmp_path)
    ids = provider.create(GEOMETRY)
    for is_published in (False, True):
        if is_published:
            provider.publish(ids)
        (ring,) = provider.found([])
        assert ring.ids == ids
        assert ring.geometry == GEOMETRY
        assert ring.is_read_only is (False if is_published else None)
        assert not ring.is_ours, "another supervisor's looks the same"
    assert provider.found(["web"]) == []


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("wwn/vpd_unit_serial", "T10 VPD Unit Serial Number: 0f0e0d0c-0b0a-4908-8706-050403020101"),
        ("wwn/vpd_unit_serial", "T10 VPD Unit Serial Number: "),
        ("attrib/dev_size", "x"),
        ("attrib/dev_size", "0"),
    ],
)
def test_a_device_that_does_not_show_who_it_is_is_left_out(
    tmp_path: Path, attribute: str, value: str
) -> None:
    provider, configfs = _provider(tmp_path)
    ids = provider.create(GEOMETRY)
    device = configfs.roots.sys / "kernel/config/target/core" / f"user_{ids['hba']}" / "obdsup-web"
    (device / attribute).write_text(value)
    assert provider.found([]) == []


def test_a_device_of_another_size_is_not_taken_for_ours(tmp_path: Path) -> None:
    provider, _ = _provider(tmp_path)
    provider.create(GEOMETRY)
    with pytest.raises(ProviderError, match="remove the device first"):
        provider.create(dataclasses.replace(GEOMETRY, size_bytes=128 << 20))


def test_destroy_refuses_a_published_device(tmp_path: Path) -> None:
    provider, _ = _provider(tmp_path)
    ids = provider.create(GEOMETRY)
    provider.publish(ids)
    with pytest.raises(ProviderError, match="still published"):
        provider.destroy(ids)
    assert provider.exists(ids)


def test_ring_reset_is_never_left_blocked(tmp_path: Path) -> None:
    provider, configfs = _provider(tmp_path)
    ids = provider.create(GEOMETRY)
    action = configfs.roots.sys / f"kernel/config/target/core/user_{ids['hba']}/obdsup-web/action"
    provider.reset_ring(ids)
    assert (action / "block_dev").read_text() == "unblocked"
    (action / "block_dev").write_text("blocked")  # as a supervisor leaves it that died in between
    (configfs.roots.dev / "uio0").touch()
    provider.open_ring(ids).close()
    assert (action / "block_dev").read_text() == "unblocked"


def test_uio_of_a_device_with_a_longer_name_is_not_taken(tmp_path: Path) -> None:
    roots = KernelRoots(tmp_path)
    for number, name in enumerate(("web2", "web")):
        uio = tmp_path / "class" / "uio" / f"uio{number}"
        (uio / "maps" / "map0").mkdir(parents=True)
        (uio / "name").write_text(f"tcm-user/7/obdsup-{name}/obdsup/x\n")
        (uio / "maps" / "map0" / "size").write_text("0x1000\n")
    found = find_uio(roots, 7, "obdsup-web")
    assert found is not None
    assert found.sysfs.name == "uio1"
    assert find_uio(roots, 70, "obdsup-web") is None


@pytest.mark.parametrize("size", ["0x0", "0xffffffffffff"])
def test_uio_with_an_absurd_map_is_refused(tmp_path: Path, size: str) -> None:
    uio = tmp_path / "class" / "uio" / "uio0"
    (uio / "maps" / "map0").mkdir(parents=True)
    (uio / "name").write_text("tcm-user/7/obdsup-web/obdsup/x\n")
    (uio / "maps" / "map0" / "size").write_text(size)
    with pytest.raises(ProviderError, match="not a ring"):
        find_uio(KernelRoots(tmp_path), 7, "obdsup-web")


# --- pieces that need no kernel ---------------------------------------------------------------


def test_call_the_kernel_holds_up_is_given_up_with_a_hint(tmp_path: Path) -> None:
    fifo = tmp_path / "attribute"
    os.mkfifo(fifo)
    configfs = Configfs(0.2)
    with pytest.raises(ProviderError, match="not done within") as caught:
        configfs.write_bounded(fifo, "1", lambda: True)
    assert "worker" in caught.value.hint
    pid = caught.value.fields["pid"]
    assert isinstance(pid, int)
    os.close(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK))  # what it waited for: it ends by itself
    assert wait_for(lambda: None if Path(f"/proc/{pid}").exists() else True, 10.0)


def test_call_that_fails_says_why(tmp_path: Path) -> None:
    (tmp_path / "full" / "child").mkdir(parents=True)
    with pytest.raises(ProviderError, match="not empty"):
        Configfs(10.0).remove(tmp_path / "full")


def test_operations_that_are_done_are_success(tmp_path: Path) -> None:
    configfs = Configfs(10.0)
    link = tmp_path / "link"
    for _ in range(2):
        configfs.make(tmp_path / "folder")
        configfs.link(link, tmp_path / "folder")
    assert link.is_symlink()
    for _ in range(2):
        configfs.unlink(link)
        configfs.remove(tmp_path / "folder")
    assert not list(tmp_path.iterdir())
    assert configfs.read(tmp_path / "absent") == ""


def test_holders_are_found_by_fd_and_by_mapping(tmp_path: Path) -> None:
    held = tmp_path / "held"
    held.write_bytes(bytes(4096))
    program = (
        "import mmap, os, sys\n"
        "f = open(sys.argv[1], 'r+b'); m = mmap.mmap(f.fileno(), 4096)\n"
        "os.closerange(3, 100) if sys.argv[2] == 'map' else None\n"
        "print('ready', flush=True); sys.stdin.read()\n"
    )
    for how in ("fd", "map"):
        child = subprocess.Popen(
            [sys.executable, "-c", program, str(held), how],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        with child:
            assert child.stdout is not None
            assert child.stdin is not None
            assert child.stdout.readline() == b"ready\n"
            assert holders_of(KernelRoots(), held) == [child.pid]
            child.send_signal(signal.SIGKILL)
    assert holders_of(KernelRoots(), held) == []


def test_a_disk_that_is_open_is_in_use(tmp_path: Path) -> None:
    block = tmp_path / "block" / "sdx"
    block.mkdir(parents=True)
    (block / "dev").write_text("8:368\n")
    node = tmp_path / "sdx"
    node.touch()
    disk = ScsiDisk(block, node)
    require_unused(KernelRoots(), disk, 0.0)
    with node.open(), pytest.raises(ProviderError, match=str(os.getpid())) as caught:
        require_unused(KernelRoots(), disk, 0.0)
    assert caught.value.fields["is_in_use"] is True


def test_a_foreign_device_node_is_not_opened(tmp_path: Path) -> None:
    sysfs = tmp_path / "uio9"
    sysfs.mkdir()
    (sysfs / "dev").write_text("240:9\n")
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "uio9").touch()
    with pytest.raises(ProviderError, match="not device 240:9"):
        KernelRoots(dev=tmp_path / "dev").ensure_node(sysfs, stat.S_IFCHR)


@pytest.mark.host
def test_contract_holds_for_fuse_as_for_tcmu_in_the_guest(tmp_path: Path) -> None:
    held: list[str] = []
    run_contract(FuseProvider(tmp_path / "rings"), "contract", tmp_path, held.append)
    assert len(held) == 7, held
