"""A file system of a few MiB that can be filled: tmpfs, or ext4 in a file on a loop device."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from chaos.rig.kernel_module import need_node
from chaos.rig.problem import RigError, run

__all__ = ["SmallDisk"]

FILLER = "filler"
UNMOUNT_TIMEOUT_S = 10.0
CHUNK_BYTES = 1 << 16


class SmallDisk:
    """A mount of ours; a context manager. Leaving it unmounts and removes it.

    Args:
        folder: of this disk alone, made here: mount point ``folder/mnt``.
        size_mib: ext4 wants at least 8 and keeps some of it for itself.
        kind: "tmpfs" or "ext4" (which takes a loop device).
    """

    def __init__(self, folder: Path, size_mib: int, kind: str = "tmpfs") -> None:
        self.mount_point = folder / "mnt"
        self._folder = folder
        self._size_mib = size_mib
        self._kind = kind

    def __enter__(self) -> Self:
        """Makes and mounts it.

        Raises:
            RigError: mkfs or mount refused.
        """
        self.mount_point.mkdir(parents=True, exist_ok=True)
        if self._kind == "tmpfs":
            options = f"size={self._size_mib}M,mode=700"
            run(["mount", "-t", "tmpfs", "-o", options, "obdsup-chaos", self.mount_point],
                what="mount a small tmpfs")  # fmt: skip
            return self
        disk = self._folder / "disk"
        with disk.open("wb") as file:
            file.truncate(self._size_mib << 20)
        need_node(Path("/dev/loop-control"), "loop")
        run(["mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", disk], what="make a small ext4")
        run(["mount", "-o", "loop", disk, self.mount_point], what="mount a small ext4")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        deadline = time.monotonic() + UNMOUNT_TIMEOUT_S
        while os.path.ismount(self.mount_point):
            try:
                run(["umount", self.mount_point], what="unmount a small disk")
            except RigError:  # a worker may still close its files
                if time.monotonic() > deadline:
                    run(["umount", "--lazy", self.mount_point], what="unmount a small disk lazily")
                time.sleep(0.1)
        (self._folder / "disk").unlink(missing_ok=True)

    def free_bytes(self) -> int:
        """What an unprivileged writer could still write."""
        stat = os.statvfs(self.mount_point)
        return stat.f_bavail * stat.f_frsize

    def fill(self, leave_bytes: int = 0) -> None:
        """Takes all space but ``leave_bytes``, by a file of its own.

        Raises:
            RigError: more than two chunks are free all the same.
        """
        with (self.mount_point / FILLER).open("ab", buffering=0) as filler:
            for chunk_bytes in (CHUNK_BYTES, 4096):
                try:
                    while self.free_bytes() >= leave_bytes + chunk_bytes:
                        filler.write(bytes(chunk_bytes))
                except OSError:
                    continue  # full: smaller pieces may still fit
            os.fsync(filler)
        if self.free_bytes() > leave_bytes + 2 * CHUNK_BYTES:
            raise RigError(
                f"{self.mount_point} has {self.free_bytes()} bytes free, cannot be filled"
            )

    def free(self) -> None:
        """Gives back what ``fill`` took."""
        (self.mount_point / FILLER).unlink(missing_ok=True)
