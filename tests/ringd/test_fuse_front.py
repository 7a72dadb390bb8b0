"""The FUSE front end as a disk: ext4, fio, discards, flushes and errors, over a loop device."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from obdsup.supervisor.provider.base import DeviceGeometry, ProviderIds
from obdsup.supervisor.provider.fuse import FuseProvider
from obdsup.supervisor.provider.ringd import Ringd
from tests.conftest import REPO, eventually
from tests.ringd.fake_worker import CHECK_CONDITION, FakeWorker

pytestmark = pytest.mark.host

DISK_BYTES = 64 << 20
PUNCH_HOLE, ZERO_RANGE, KEEP_SIZE = 2, 16, 1
LIBC = ctypes.CDLL(None, use_errno=True)


def sense(key: int, asc: int, ascq: int) -> bytes:
    return bytes([0x70, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, asc, ascq])


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    if LIBC.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


class Disk:
    """A fuse ring without a worker yet."""

    def __init__(self, directory: Path) -> None:
        self.provider = FuseProvider(directory)
        geometry = DeviceGeometry("d", "", DISK_BYTES, False, "")
        self.ids: ProviderIds = self.provider.create(geometry)
        self.path = Path(str(self.ids["mount"])) / "disk"
        self.ringd = Ringd(Path(str(self.ids["socket"])))
        self.data = bytearray(DISK_BYTES)
        self.workers: list[FakeWorker] = []

    def worker(self) -> FakeWorker:
        self.workers.append(FakeWorker(self.provider.open_ring(self.ids), self.data))
        return self.workers[-1]

    def close(self) -> None:
        try:
            self.provider.retract(self.ids)
        finally:
            for worker in self.workers:
                worker.close()
            self.provider.destroy(self.ids)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path / "rings")
    yield disk
    disk.close()


def test_reads_and_writes_of_any_size_reach_the_worker(disk: Disk) -> None:
    disk.worker().start()
    fd = os.open(disk.path, os.O_RDWR)
    try:
        pattern = mmap.mmap(-1, 3 << 20)  # page-aligned: FUSE splits at the buffer's pages
        pattern.write(os.urandom(3 << 20))
        assert os.pwrite(fd, pattern, 512) == len(pattern)
        assert disk.data[512 : 512 + len(pattern)] == pattern[:]
        for offset, length in [(0, 4096), (513, 7), (1000, 700_000), (DISK_BYTES - 5, 100)]:
            assert os.pread(fd, length, offset) == disk.data[offset : offset + length]
        assert os.pread(fd, 512, DISK_BYTES) == b""
        for offset, length, code in [
            (1, 512, errno.EINVAL),
            (0, 100, errno.EINVAL),
            (DISK_BYTES, 512, errno.ENOSPC),
        ]:
            with pytest.raises(OSError, match=r"Errno") as raised:
                os.pwrite(fd, bytes(length), offset)
            assert raised.value.errno == code
    finally:
        os.close(fd)


def test_holes_zero_ranges_and_flushes_become_commands(disk: Disk) -> None:
    disk.worker().start()
    fd = os.open(disk.path, os.O_RDWR)
    try:
        disk.data[:] = b"x" * DISK_BYTES
        fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 4096, 8192)
        fallocate(fd, ZERO_RANGE, 16384, 48 << 20)  # more than one WRITE SAME
        assert disk.data[4096 : 4096 + 8192] == bytes(8192)
        assert disk.data[16384 : 16384 + (48 << 20)] == bytes(48 << 20)
        assert disk.data[:4096] == b"x" * 4096
        assert disk.data[16384 + (48 << 20) :] == b"x" * (DISK_BYTES - 16384 - (48 << 20))
        completed = disk.ringd.stat().number("completed")
        os.fsync(fd)
        assert disk.ringd.stat().number("completed") == completed + 1
        with pytest.raises(OSError, match="not supported"):
            fallocate(fd, 0, 0, 4096)
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (sense(3, 0x11, 0), errno.EIO),
        (sense(7, 0x27, 0x07), errno.ENOSPC),
        (sense(7, 0x27, 0), errno.EROFS),
        (sense(5, 0x21, 0), errno.EIO),
        (sense(5, 0x24, 0), errno.EINVAL),
    ],
)
def test_sense_data_becomes_an_errno(disk: Disk, data: bytes, code: int) -> None:
    worker = disk.worker()
    writer = subprocess.Popen(
        ["dd", "if=/dev/zero", f"of={disk.path}", "bs=4096", "count=1", "conv=notrunc"],
        stderr=subprocess.PIPE,
        text=True,
    )
    (command,) = worker.pick_up_some(1)
    worker.publish(command.cmd_id, CHECK_CONDITION, data)
    worker.kick()
    _, said = writer.communicate(timeout=30)
    assert os.strerror(code) in said


def test_a_write_waits_through_resets_and_a_missing_worker(disk: Disk) -> None:
    writer = subprocess.Popen(
        ["dd", "if=/dev/urandom", f"of={disk.path}", "bs=1M", "count=8", "conv=notrunc,fsync"],
        stderr=subprocess.DEVNULL,
    )
    eventually(lambda: disk.ringd.stat().number("in_flight") > 0)
    disk.ringd.reset()
    disk.worker().pick_up_some(1)  # and dies
    disk.ringd.reset()
    assert writer.poll() is None
    disk.worker().start()
    assert writer.wait(timeout=30) == 0


@pytest.mark.native
def test_ext4_on_the_loop_device_survives_kills_of_the_engine(disk: Disk, tmp_path: Path) -> None:
    if shutil.which("fio") is None:
        pytest.skip("needs fio")
    native = REPO / "native"
    subprocess.run(["make", "-s", "-C", str(native), "build/release/prog_serve"], check=True)
    engine: subprocess.Popen[bytes] | None = None

    def serve(generation: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [native / "build" / "release" / "prog_serve",
             "--ringd", disk.ringd.socket_path, "--journal", tmp_path / "inflight",
             "--disk-bytes", str(DISK_BYTES), "--generation", str(generation),
             "--mode", "fresh" if generation == 1 else "recover"],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip

    target = tmp_path / "fs"
    target.mkdir()
    engine = serve(1)
    try:
        device = disk.provider.publish(disk.ids)
        subprocess.run(["mkfs.ext4", "-q", device], check=True, timeout=60)
        subprocess.run(["mount", "-o", "discard", device, target], check=True, timeout=60)
        try:
            fio = subprocess.Popen(
                ["fio", "--name=v", f"--filename={target}/f", "--size=8M", "--bs=4k",
                 "--rw=randwrite", "--verify=crc32c", "--do_verify=1", "--direct=1", "--loops=2",
                 "--ioengine=libaio", "--iodepth=16", "--verify_fatal=1", "--minimal"],
                stdout=subprocess.DEVNULL, cwd=tmp_path,  # where it leaves the state of its check
            )  # fmt: skip
            kills = 0
            while fio.poll() is None and kills < 20:
                reached = disk.ringd.stat().number("completed") + 300
                eventually(
                    lambda reached=reached, fio=fio: (
                        disk.ringd.stat().number("completed") >= reached or fio.poll() is not None
                    ),
                    60,
                )
                engine.kill()
                engine.wait()
                kills += 1
                engine = serve(kills + 1)
            assert fio.wait(timeout=120) == 0
            assert kills > 3
        finally:
            subprocess.run(["umount", target], check=True, timeout=60)
        subprocess.run(["fsck.ext4", "-fn", device], check=True, timeout=60, capture_output=True)
        stat = disk.ringd.stat()
        assert (stat.number("errors"), stat.number("resets")) == (0, 0)
        disk.provider.retract(disk.ids)
    finally:
        engine.kill()
        engine.wait()
