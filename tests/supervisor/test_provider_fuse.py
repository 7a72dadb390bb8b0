"""Provider fuse with a real ringd, FUSE mount and loop device; provider load with a real ringd."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from obdsup.errors import ProviderError
from obdsup.supervisor.provider.base import DeviceGeometry, ProviderIds
from obdsup.supervisor.provider.fuse import FuseProvider
from obdsup.supervisor.provider.kernel_files import KernelRoots
from obdsup.supervisor.provider.load import LoadProvider
from obdsup.supervisor.provider.loop import find_loop
from obdsup.supervisor.provider.ringd import Ringd
from tests.conftest import eventually
from tests.ringd.fake_worker import FakeWorker

SIZE = 8 << 20


def geometry(name: str, *, is_read_only: bool = False) -> DeviceGeometry:
    return DeviceGeometry(name, "00000000-0000-0000-0000-000000000001", SIZE, is_read_only, "")


class Device:
    """A device of provider fuse, served by a fake worker."""

    def __init__(self, directory: Path, *, is_read_only: bool = False) -> None:
        self.provider = FuseProvider(directory)
        self.ids: ProviderIds = self.provider.create(geometry("d", is_read_only=is_read_only))
        self.disk = bytearray(SIZE)
        self.worker = FakeWorker(self.provider.open_ring(self.ids), self.disk)
        self.worker.start()

    @property
    def ringd(self) -> Ringd:
        return Ringd(Path(str(self.ids["socket"])))

    @property
    def mount(self) -> Path:
        return Path(str(self.ids["mount"]))

    def close(self) -> None:
        try:
            self.provider.retract(self.ids)
        finally:
            self.worker.close()
            self.provider.destroy(self.ids)


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    device = Device(tmp_path / "rings")
    yield device
    device.close()


def is_mounted(path: Path) -> bool:
    return f" {path} " in Path("/proc/self/mountinfo").read_text()


def test_probe_says_what_is_missing(tmp_path: Path) -> None:
    empty = KernelRoots(dev=tmp_path)
    found = FuseProvider(tmp_path, roots=empty).probe()
    assert not found.is_available
    assert "root" in found.reason or "fuse" in found.reason
    assert not LoadProvider(tmp_path, tmp_path / "none").probe().is_available


@pytest.mark.parametrize("name", ["", "../x", "a b", "x" * 59, "-a"])
def test_names_that_are_no_file_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ProviderError):
        LoadProvider(tmp_path).create(geometry(name))


@pytest.mark.host
def test_block_device_appears_serves_and_goes(device: Device) -> None:
    path = device.provider.publish(device.ids)
    assert device.provider.publish(device.ids) == path
    pattern = os.urandom(65536)
    with open(path, "r+b", buffering=0) as disk:
        disk.seek(4096)
        disk.write(pattern)
        os.fsync(disk.fileno())
        os.posix_fadvise(disk.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    assert device.disk[4096 : 4096 + 65536] == pattern
    device.provider.retract(device.ids)
    assert find_loop(KernelRoots(), device.mount / "disk") is None
    device.provider.retract(device.ids)


@pytest.mark.host
def test_retract_refuses_a_mounted_device(device: Device, tmp_path: Path) -> None:
    path = device.provider.publish(device.ids)
    subprocess.run(["mkfs.ext4", "-q", path], check=True)
    target = tmp_path / "fs"
    target.mkdir()
    subprocess.run(["mount", path, str(target)], check=True)
    try:
        (target / "hello").write_text("here")
        with pytest.raises(ProviderError, match="in use"):
            device.provider.retract(device.ids)
        assert (target / "hello").read_text() == "here"
    finally:
        subprocess.run(["umount", str(target)], check=True)


@pytest.mark.host
def test_destroy_refuses_while_attached_and_is_idempotent(device: Device) -> None:
    device.provider.publish(device.ids)
    with pytest.raises(ProviderError, match="attached"):
        device.provider.destroy(device.ids)
    device.provider.retract(device.ids)
    device.provider.destroy(device.ids)
    assert not device.provider.exists(device.ids)
    assert not device.mount.exists()
    device.provider.destroy(device.ids)


@pytest.mark.host
def test_another_provider_object_finds_the_device_again(device: Device, tmp_path: Path) -> None:
    path = device.provider.publish(device.ids)
    successor = FuseProvider(tmp_path / "rings")
    ids: ProviderIds = json.loads(json.dumps(device.ids))
    assert successor.exists(ids)
    assert successor.create(geometry("d")) == ids
    assert successor.publish(ids) == path
    successor.open_ring(ids).close()


@pytest.mark.host
def test_create_clears_what_a_killed_ringd_left(device: Device) -> None:
    os.kill(device.ringd.pid(), signal.SIGKILL)
    eventually(lambda: not device.provider.exists(device.ids))
    assert is_mounted(device.mount)
    assert device.provider.create(geometry("d")) == device.ids
    assert device.provider.exists(device.ids)
    assert (device.mount / "disk").stat().st_size == SIZE


@pytest.mark.host
def test_read_only_device_refuses_writes(tmp_path: Path) -> None:
    device = Device(tmp_path / "rings", is_read_only=True)
    try:
        path = device.provider.publish(device.ids)
        name = Path(path).name
        assert Path(f"/sys/block/{name}/ro").read_text().strip() == "1"
        with pytest.raises(OSError, match="Read-only"):
            os.open(device.mount / "disk", os.O_RDWR)
    finally:
        device.close()


@pytest.mark.integration
def test_load_is_served_read_back_and_reported(tmp_path: Path) -> None:
    directory = tmp_path / "rings"
    directory.mkdir()
    (directory / "load.options").write_text("--span 1048576 --qd 8 --seed 3\n")
    provider = LoadProvider(directory)
    ids = provider.create(geometry("l"))
    try:
        assert provider.create(geometry("l")) == ids
        worker = FakeWorker(provider.open_ring(ids), bytearray(SIZE))
        worker.start()
        try:
            ringd = Ringd(Path(str(ids["socket"])))
            assert provider.publish(ids) == ""
            eventually(lambda: ringd.stat().number("completed") > 500, 30)
            provider.retract(ids)
            provider.retract(ids)
        finally:
            worker.close()
        report = json.loads(Path(str(ids["report"])).read_text())
        assert report["good"] is True
        assert report["read_back"] == 1048576 // 512
        assert report["commands"] > 500
    finally:
        provider.destroy(ids)
    assert not provider.exists(ids)
