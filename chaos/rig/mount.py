"""The device's ext4 file system, mounted: the container's rootfs."""

from __future__ import annotations

import time
from pathlib import Path

from chaos.rig.problem import RigError, run

__all__ = ["Mount"]

UNMOUNT_TIMEOUT_S = 60.0
EXT4_MAGIC_OFFSET_BYTES = 1024 + 0x38
EXT4_MAGIC = b"\x53\xef"


class Mount:
    """A mount point of ours; ``mount`` and ``unmount`` alternate, ``unmount`` may be repeated."""

    def __init__(self, device: str, folder: Path) -> None:
        self.folder = folder
        self.is_mounted = False
        self._device = device

    @property
    def device_name(self) -> str:
        """The kernel's name of the block device, such as ``loop3``."""
        return Path(self._device).resolve().name

    def prepare(self) -> None:
        """Makes an empty ext4 file system on a device that has none.

        Raises:
            RigError: the device can not be read, or mke2fs refused.
        """
        try:
            with open(self._device, "rb") as device:
                device.seek(EXT4_MAGIC_OFFSET_BYTES)
                magic = device.read(len(EXT4_MAGIC))
        except OSError as error:
            raise RigError(f"{self._device} can not be read: {error}") from error
        if magic == EXT4_MAGIC:
            return
        # Nothing is left to be initialised in the background: no I/O but that of the load.
        options = ["-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"]
        command = ["mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", *options, self._device]
        run(command, what=f"make a file system on {self._device}")

    def mount(self) -> None:
        """Mounts it read-write.

        Raises:
            RigError: mount refused.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "ext4", "-o", "noatime", self._device, str(self.folder)]
        run(command, what=f"mount {self._device}")
        self.is_mounted = True

    def unmount(self) -> None:
        """Unmounts it, waiting for whoever still has a file open for a moment.

        Raises:
            RigError: it stays busy; it is then taken out of the tree lazily all the same.
        """
        deadline = time.monotonic() + UNMOUNT_TIMEOUT_S
        while self.is_mounted:
            try:
                run(["umount", self.folder], what=f"unmount {self._device}", timeout_s=300)
                self.is_mounted = False
            except RigError:
                if time.monotonic() > deadline:
                    self.is_mounted = False
                    run(["umount", "--lazy", self.folder], what="unmount lazily")
                    raise
                time.sleep(0.2)

    def error_count(self) -> int:
        """The errors ext4 has noted in its superblock, ever."""
        path = Path("/sys/fs/ext4") / self.device_name / "errors_count"
        return int(path.read_text()) if path.is_file() else 0

    def check(self) -> list[str]:
        """A full e2fsck without repair of the unmounted device; returns what it found wrong."""
        if self.is_mounted:
            raise RigError("e2fsck of a mounted device means nothing")
        try:
            run(["e2fsck", "-f", "-n", self._device], what="e2fsck", timeout_s=1800)
        except RigError as error:
            return [str(error)]
        return []
