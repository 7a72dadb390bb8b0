"""The disk below a writable layer fills: writes fail, nothing acknowledged is lost, it heals."""

from __future__ import annotations

import errno
import json
import mmap
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.service import Service

pytestmark = [pytest.mark.integration, pytest.mark.host]

BLOCK_BYTES = 256 * 1024
DISK_BYTES = 64 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8M", "obdsup-test", str(folder)]
    subprocess.run(mount, check=True)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def pattern(number: int) -> bytes:
    return bytes([number % 251 + 1]) * BLOCK_BYTES


def write(fd: int, number: int) -> int:
    """Writes block ``number``; the errno, 0 when it was acknowledged."""
    with mmap.mmap(-1, BLOCK_BYTES) as buffer:  # aligned, as O_DIRECT wants it
        buffer.write(pattern(number))
        try:
            written = os.pwritev(fd, [buffer], number * BLOCK_BYTES)
        except OSError as error:
            return error.errno
    assert written == BLOCK_BYTES
    return 0


def read(fd: int, number: int) -> bytes:
    with mmap.mmap(-1, BLOCK_BYTES) as buffer:
        assert os.preadv(fd, [buffer], number * BLOCK_BYTES) == BLOCK_BYTES
        return buffer[:]


def test_full_disk_fails_writes_keeps_what_was_acknowledged_and_heals(
    fuse_service: Service, small_disk: Path, tmp_path: Path
) -> None:
    service = fuse_service
    data, index = str(small_disk / "data"), str(small_disk / "index")
    service.call("image", "new-upper", "--size", str(DISK_BYTES), data, index)
    config = tmp_path / "config.v1.json"
    config.write_text(json.dumps({"lowers": [], "upper": {"data": data, "index": index}}))
    service.call("device", "create", "full", "--image", str(config), "--writable")
    pid = service.worker_pid("full")
    fd = os.open(service.show("full")["block_device"], os.O_RDWR | os.O_DIRECT)
    try:
        number, failure = 0, 0
        while not failure:
            failure = write(fd, number)
            number += 1
        failed = number - 1
        assert failure in (errno.ENOSPC, errno.EIO)
        assert 0 < failed < DISK_BYTES // BLOCK_BYTES
        assert all(read(fd, n) == pattern(n) for n in range(failed))
        remount = ["mount", "-o", "remount,size=128M", str(small_disk)]
        subprocess.run(remount, check=True)
        assert write(fd, failed) == 0
        assert all(read(fd, n) == pattern(n) for n in range(failed + 1))
    finally:
        os.close(fd)
    assert service.worker_pid("full") == pid  # the same worker, all the way
    service.call("device", "remove", "full")
