"""A loop device over a file as a workload's ground, with ways to damage it behind its back."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from chaos.rig.image import CACHE
from chaos.workloads.ground import Ground

EXT4_IOC_SHUTDOWN = 0x8004587D
SHUTDOWN_WITHOUT_LOG = 2
BLOCK_BYTES = 4096


@dataclass(frozen=True)
class LoopGround:
    """The ground, and the file below its device."""

    ground: Ground
    backing: Path

    def blocks(self, path: Path) -> list[int]:
        """The numbers of a file's data blocks on the device, in order; it must be written back.

        Asked one by one: debugfs lists the blocks of the extent tree among them.
        """
        name = f"/{path.relative_to(self.ground.mount)}"
        count = -(-path.stat().st_size // BLOCK_BYTES)
        os.sync()
        done = subprocess.run(
            ["debugfs", "-f", "-", self.ground.device],
            input="".join(f"bmap {name} {number}\n" for number in range(count)),
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return [int(line) for line in done.stdout.splitlines() if line.isdigit()]

    def read(self, block: int, count: int = 1) -> bytes:
        with self.backing.open("rb") as file:
            file.seek(block * BLOCK_BYTES)
            return file.read(count * BLOCK_BYTES)

    def overwrite(self, block: int, data: bytes) -> None:
        """Changes the device below the file system, which sees it when it reads it anew."""
        with self.backing.open("r+b") as file:
            file.seek(block * BLOCK_BYTES)
            file.write(data)

    def break_file_system(self) -> None:
        """See the function."""
        break_file_system(self.ground.mount)


def break_file_system(mount: Path) -> None:
    """From now on every call on the mounted ext4 fails with EIO, until it is unmounted."""
    fd = os.open(mount, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, EXT4_IOC_SHUTDOWN, struct.pack("I", SHUTDOWN_WITHOUT_LOG))
    finally:
        os.close(fd)


@contextlib.contextmanager
def loop_ground(
    folder: Path, size_bytes: int = 96 << 20, image: Path | None = None, **options: object
) -> Iterator[LoopGround]:
    """A ground on a loop device of its own: blank, or a sparse copy of a disk image."""
    backing = folder / "disk"
    if image:
        subprocess.run(["cp", "--sparse=always", image, backing], check=True)
    else:
        with backing.open("wb") as file:
            file.truncate(size_bytes)
    attach = ["losetup", "--find", "--show", backing]
    node = subprocess.run(attach, capture_output=True, text=True, check=True).stdout.strip()
    scratch = folder / "s"
    scratch.mkdir()
    ground = Ground(Path(node), folder / "m", scratch, seed=7, cache=CACHE, **options)  # type: ignore[arg-type]
    try:
        yield LoopGround(ground, backing)
    finally:
        subprocess.run(["losetup", "--detach", node], check=True)


__all__ = ["BLOCK_BYTES", "CACHE", "LoopGround", "break_file_system", "loop_ground"]
