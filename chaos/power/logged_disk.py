"""A disk whose every request is logged by dm-log-writes, with marks; for the guest.

Two memory disks (brd): one holds the data, one the log. Nothing of the host's is touched: brd's
devices are made by this module's loading and belong to the guest.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
from pathlib import Path

from chaos.power.log_writes import WriteLog
from chaos.rig.problem import RigError, run

__all__ = ["LoggedDisk"]

_MEMORY_DISK_KIB = 1 << 20
_DM_TARGET_MSG = 0xC138FD0E
_IOCTL = struct.Struct("=3I I I I i I I I Q 128s 129s 7s")
assert _IOCTL.size == 312


class LoggedDisk:
    """One file system on a logged disk, mounted.

    Args:
        name: of the device-mapper device.
        kind: "ext4" or "xfs".
        size_bytes: of the file system.
        folder: where it is mounted; made.
    """

    def __init__(self, name: str, kind: str, size_bytes: int, folder: Path) -> None:
        self.folder = folder
        self._name = name
        self._device = f"/dev/mapper/{name}"
        run(["modprobe", "dm-log-writes"], what="load dm-log-writes")
        run(
            ["modprobe", "brd", "rd_nr=2", f"rd_size={_MEMORY_DISK_KIB}", "max_part=0"],
            what="load brd",
        )
        table = f"0 {size_bytes // 512} log-writes /dev/ram0 /dev/ram1"
        run(
            ["dmsetup", "create", "--noudevsync", "--noudevrules", name, "--table", table],
            what="create the logged disk",
        )
        run(["dmsetup", "mknodes", name], what="device node of the logged disk")
        self._control = os.open("/dev/mapper/control", os.O_RDWR | os.O_CLOEXEC)
        quick = ["-q", "-m", "0", "-E", "nodiscard"] if kind == "ext4" else ["-q", "-K"]
        run([f"mkfs.{kind}", *quick, self._device], what=f"make {kind}")
        folder.mkdir(parents=True, exist_ok=True)
        options = "noatime,commit=1" if kind == "ext4" else "noatime"
        run(["mount", "-t", kind, "-o", options, self._device, str(folder)], what=f"mount {kind}")

    def mark(self, text: str) -> None:
        """Puts a mark behind everything that was flushed before; words are joined by "/"."""
        message = b"mark " + text.replace(" ", "/").encode() + b"\0"
        payload = struct.pack("=Q", 0) + message
        size = _IOCTL.size + len(payload)
        head = _IOCTL.pack(
            4, 0, 0, size, _IOCTL.size, 0, 0, 0, 0, 0, 0, self._name.encode(), b"", b""
        )
        fcntl.ioctl(self._control, _DM_TARGET_MSG, bytearray(head + payload))

    def finish(self, log: Path) -> None:
        """Unmounts, ends the log and copies it out.

        Raises:
            RigError: a step failed.
        """
        run(["umount", str(self.folder)], what="unmount the logged disk")
        os.close(self._control)
        run(["dmsetup", "remove", "--noudevsync", self._name], what="remove the logged disk")
        _copy_log("/dev/ram1", log)
        run(["rmmod", "brd"], what="unload brd")


def _copy_log(device: str, log: Path) -> None:
    written = WriteLog(device)
    try:
        for _ in written.entries():
            pass
        left = written.end_bytes
    finally:
        written.close()
    with open(device, "rb") as source, log.open("wb") as target:
        while left:
            chunk = source.read(min(left, 1 << 20))
            if not chunk:
                raise RigError(f"{device}: ends before its log does")
            target.write(chunk)
            left -= len(chunk)
    shutil.copystat(device, log)
