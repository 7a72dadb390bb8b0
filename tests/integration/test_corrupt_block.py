"""One corrupt block of a layer: an error at once for that block, nothing else is touched."""

from __future__ import annotations

import errno
import json
import mmap
import os
import random
from pathlib import Path

import pytest

from tests.integration.service import Service

pytestmark = [pytest.mark.integration, pytest.mark.host]

BLOCK_BYTES = 4096
BLOCKS = 512


def make_image(service: Service, folder: Path) -> Path:
    """A compressed layer of a random disk; returns its config."""
    folder.mkdir()
    words = random.Random(7)
    raw = b"".join(words.randbytes(16) * (BLOCK_BYTES // 16) for _ in range(BLOCKS))
    (folder / "disk.raw").write_bytes(raw)
    layer = folder / "layer.obd"
    service.call("image", "import", str(folder / "disk.raw"), "-o", str(layer), "--zfile", "lz4")
    config = folder / "config.v1.json"
    config.write_text(json.dumps({"lowers": [{"file": str(layer)}]}))
    return config


def flip_a_bit(layer: Path) -> None:
    with layer.open("r+b") as file:
        file.seek(layer.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


def read_blocks(device: str) -> list[bytes | int]:
    """Each block of the device, or the errno it failed with."""
    fd = os.open(device, os.O_RDONLY | os.O_DIRECT)
    found: list[bytes | int] = []
    try:
        with mmap.mmap(-1, BLOCK_BYTES) as buffer:
            for number in range(BLOCKS):
                try:
                    os.preadv(fd, [buffer], number * BLOCK_BYTES)
                    found.append(buffer[:])
                except OSError as error:
                    found.append(error.errno)
    finally:
        os.close(fd)
    return found


def test_a_corrupt_block_fails_alone(fuse_service: Service, tmp_path: Path) -> None:
    service = fuse_service
    config = make_image(service, tmp_path / "bad")
    good = make_image(service, tmp_path / "good")
    flip_a_bit(tmp_path / "bad" / "layer.obd")
    service.call("device", "create", "bad", "--image", str(config))
    service.call("device", "create", "good", "--image", str(good))
    pid = service.worker_pid("bad")
    expected = (tmp_path / "bad" / "disk.raw").read_bytes()
    read = read_blocks(service.show("bad")["block_device"])
    failed = [number for number, block in enumerate(read) if isinstance(block, int)]
    assert 1 <= len(failed) <= 2  # a layer's blocks need not lie as the disk's do
    assert {read[number] for number in failed} == {errno.EIO}
    for number in set(range(BLOCKS)) - set(failed):
        assert read[number] == expected[number * BLOCK_BYTES :][:BLOCK_BYTES]
    assert b"".join(b for b in read_blocks(service.show("good")["block_device"])) == expected  # type: ignore[misc]
    assert service.show("bad")["medium_errors"] > 0
    assert service.worker_pid("bad") == pid
    verify = service.run("image", "verify", str(config))
    assert verify.returncode == 11
    assert "layer.obd" in verify.stdout + verify.stderr
