"""Loop devices over a file, by ioctl: no child process whose exit somebody else could reap.

Source: linux/loop.h (LOOP_CONFIGURE, LOOP_CLR_FD, LOOP_CTL_GET_FREE, struct loop_config).
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from pathlib import Path

from obdsup.errors import ProviderError
from obdsup.supervisor.provider.kernel_files import KernelRoots, holders_of, wait_for

__all__ = ["attach_loop", "detach_loop", "find_loop"]

_LOOP_CLR_FD = 0x4C01
_LOOP_CONFIGURE = 0x4C0A
_LOOP_CTL_GET_FREE = 0x4C82
_READ_ONLY = 1
_DIRECT_IO = 16
# fd, block size; lo_device, inode, rdevice, offset, sizelimit; number, encrypt type, key size,
# flags; file name, crypt name, key, init; reserved
_CONFIG = struct.Struct("=II5Q4I64s64s32s2Q8Q")
_ATTEMPTS = 64  # others take free devices too
_GONE_S = 10.0
_SECTOR_BYTES = 512


def find_loop(roots: KernelRoots, file: Path) -> Path | None:
    """The /sys/block directory of the loop device over ``file``, if there is one."""
    for entry in sorted((roots.sys / "block").glob("loop*")):
        try:
            backing = (entry / "loop" / "backing_file").read_text()
        except OSError:
            continue  # not attached
        if backing.rstrip("\n") == str(file):
            return entry
    return None


def attach_loop(roots: KernelRoots, file: Path, *, is_read_only: bool) -> Path:
    """Attaches ``file``, makes the device node when it is missing, returns the node.

    Uses direct I/O, so that commands run side by side, where the kernel can. The device stays when
    this process ends.

    Raises:
        ProviderError: no free loop device, or the kernel refused.
    """
    found = find_loop(roots, file)
    if found is not None:
        return roots.ensure_node(found, stat.S_IFBLK)
    try:
        access = os.O_RDONLY if is_read_only else os.O_RDWR
        backing = os.open(file, access | os.O_CLOEXEC)
    except OSError as error:
        raise ProviderError(f"{file}: {error.strerror}") from error
    try:
        for _ in range(_ATTEMPTS):
            node = _try_attach(roots, backing, file, is_read_only)
            if node is not None:
                return node
    except OSError as error:
        raise ProviderError(f"loop device over {file}: {error.strerror}") from error
    finally:
        os.close(backing)
    raise ProviderError("no free loop device", hint="detach unused ones: losetup -a")


def detach_loop(roots: KernelRoots, file: Path) -> None:
    """Detaches the device over ``file`` and waits until it is gone. Fine when there is none.

    Raises:
        ProviderError: it is mounted, or a process keeps it open (then it goes when that closes it).
    """
    found = find_loop(roots, file)
    if found is None:
        return
    node = roots.ensure_node(found, stat.S_IFBLK)
    try:
        device = os.open(node, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise ProviderError(
                f"{node} is in use", hint="unmount it, or end what uses it", path=str(node)
            ) from error
        raise ProviderError(f"{node}: {error.strerror}") from error
    try:
        fcntl.ioctl(device, _LOOP_CLR_FD, 0)
    except OSError as error:
        if error.errno != errno.ENXIO:  # somebody else detached it
            raise ProviderError(f"{node} can not be detached: {error.strerror}") from error
    finally:
        os.close(device)
    if wait_for(lambda: find_loop(roots, file) is None or None, _GONE_S) is None:
        raise ProviderError(
            f"{node} is still open",
            hint=f"end its users: processes {holders_of(roots, node)}",
            path=str(node),
        )


def _try_attach(roots: KernelRoots, backing: int, file: Path, is_read_only: bool) -> Path | None:
    """One try with one free device; None when somebody else took it."""
    control = os.open(roots.dev / "loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        number = fcntl.ioctl(control, _LOOP_CTL_GET_FREE)
    finally:
        os.close(control)
    node = roots.ensure_node(roots.sys / "block" / f"loop{number}", stat.S_IFBLK)
    device = os.open(node, os.O_RDWR | os.O_CLOEXEC)
    try:
        flags = _READ_ONLY if is_read_only else 0
        try:
            fcntl.ioctl(device, _LOOP_CONFIGURE, _config(backing, file, flags | _DIRECT_IO))
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            fcntl.ioctl(device, _LOOP_CONFIGURE, _config(backing, file, flags))
    except OSError as error:
        if error.errno == errno.EBUSY:
            return None
        raise
    finally:
        os.close(device)
    return node


def _config(backing: int, file: Path, flags: int) -> bytes:
    name = os.fsencode(file)[:63]
    return _CONFIG.pack(
        backing, _SECTOR_BYTES, 0, 0, 0, 0, 0, 0, 0, 0, flags, name, b"", b"", 0, 0, *([0] * 8)
    )
