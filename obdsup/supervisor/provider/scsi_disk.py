"""The kernel's end of a published device: the SCSI disk behind a tcm_loop address."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

from obdsup.errors import ProviderError
from obdsup.supervisor.provider.kernel_files import (
    KernelRoots,
    holders_of,
    wait_for,
)

__all__ = ["ScsiDisk", "find_disk", "require_unused", "wait_for_disk"]

COMMAND_TIMEOUT_S = 3600
"""How long sd waits for a command: longer than any outage we mean to survive."""

_BLKROSET = 0x125D
_NOT_YET = (errno.ENXIO, errno.ENOENT, errno.ENOMEDIUM, errno.ENODEV)


@dataclass(frozen=True, slots=True)
class ScsiDisk:
    """One disk: its block device in sysfs and its node."""

    block: Path
    node: Path

    @property
    def size_bytes(self) -> int:
        """The size sd found; sysfs counts 512-byte sectors."""
        return int((self.block / "size").read_text()) * 512

    def tolerate_outages(self) -> None:
        """Makes sd and its error handler wait for ``COMMAND_TIMEOUT_S`` instead of 30 and 10 s."""
        for name in ("timeout", "eh_timeout"):
            try:
                (self.block / "device" / name).write_text(f"{COMMAND_TIMEOUT_S}\n")
            except OSError as error:
                raise ProviderError(f"{self.block}/device/{name}: {error.strerror}") from error

    @property
    def is_read_only(self) -> bool:
        """Whether the kernel refuses writes to it."""
        return (self.block / "ro").read_text().strip() != "0"

    def make_read_only(self) -> None:
        """Sets the read-only flag, also when the disk did not report write protection."""
        if (self.block / "ro").read_text().strip() == "1":
            return
        fd = os.open(self.node, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, _BLKROSET, struct.pack("i", 1))
        finally:
            os.close(fd)


def find_disk(roots: KernelRoots, address: str) -> ScsiDisk | None:
    """The disk at a tcm_loop address ("host:channel:target", LUN 0), None while sd has none."""
    device = roots.sys / "class" / "scsi_device" / f"{address}:0" / "device" / "block"
    for block in sorted(device.glob("*")):
        try:
            return ScsiDisk(block, roots.ensure_node(block, stat.S_IFBLK))
        except FileNotFoundError:  # went away while we looked
            continue
    return None


def _is_openable(disk: ScsiDisk) -> bool:
    try:
        os.close(os.open(disk.node, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        if error.errno in _NOT_YET:
            return False
        raise ProviderError(f"{disk.node}: {error.strerror}") from error
    return True


def wait_for_disk(roots: KernelRoots, address: str, timeout_s: float) -> ScsiDisk:
    """The disk at an address once it can be opened: sd shows it a moment earlier.

    Raises:
        ProviderError: there is none after ``timeout_s``.
    """

    def ready() -> ScsiDisk | None:
        disk = find_disk(roots, address)
        return disk if disk is not None and _is_openable(disk) else None

    disk = wait_for(ready, timeout_s)
    if disk is None:
        raise ProviderError(
            f"SCSI device {address}:0: no usable disk within {timeout_s:.0f} s",
            hint="is the worker serving, and is the module sd_mod loaded? see dmesg",
        )
    return disk


def _users_by_name(roots: KernelRoots, disk: ScsiDisk) -> list[str]:
    users = [f"held by {path.name}" for path in sorted(disk.block.glob("holders/*"))]
    users += [f"held by {path.name}" for path in sorted(disk.block.glob("*/holders/*"))]
    numbers = {(disk.block / "dev").read_text().strip()}
    numbers |= {path.read_text().strip() for path in disk.block.glob("*/dev")}
    try:
        mounts = (roots.proc / "self" / "mountinfo").read_text().splitlines()
    except OSError:
        mounts = []
    users += [f"mounted on {m.split()[4]}" for m in mounts if m.split()[2] in numbers]
    return users


def require_unused(roots: KernelRoots, disk: ScsiDisk, timeout_s: float) -> None:
    """Returns when nobody uses the disk, in this mount namespace or any other.

    A mount, a device mapper target or swap space holds the disk exclusively, which an exclusive
    open shows wherever it is; plain opens are seen through /proc and given ``timeout_s`` to end
    (blkid looks at every disk that changes).

    Raises:
        ProviderError: it is in use; says by whom as far as that is known.
    """
    try:
        os.close(os.open(disk.node, os.O_RDONLY | os.O_NONBLOCK | os.O_EXCL | os.O_CLOEXEC))
    except OSError as error:
        if error.errno in _NOT_YET:
            return
        if error.errno != errno.EBUSY:
            raise ProviderError(f"{disk.node}: {error.strerror}") from error
        who = ", ".join(_users_by_name(roots, disk)) or "mounted in another namespace"
        raise ProviderError(
            f"{disk.node} is in use: {who}", hint="unmount it first", is_in_use=True
        ) from error
    if wait_for(lambda: None if holders_of(roots, disk.node) else True, timeout_s) is None:
        holders = holders_of(roots, disk.node)
        raise ProviderError(
            f"{disk.node} is open in process {', '.join(map(str, holders))}",
            hint="close it first",
            is_in_use=True,
            holders=holders,
        )
