"""Ring provider ``fuse``: obdsup-ringd is the other side of the ring, a loop device shows it.

Of one device, below the rings directory: ``NAME.sock`` (ringd's control socket), ``NAME.mnt`` (its
FUSE mount with the one file ``disk``), ``NAME.log``. For hosts whose kernel lacks TCMU.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
from collections.abc import Collection
from pathlib import Path

from obdsup.errors import ProviderError
from obdsup.supervisor.provider.base import (
    DeviceGeometry,
    FoundRing,
    Probe,
    ProviderIds,
    RingHandle,
)
from obdsup.supervisor.provider.kernel_files import KernelRoots, wait_for
from obdsup.supervisor.provider.loop import attach_loop, detach_loop, find_loop
from obdsup.supervisor.provider.ringd import RINGD_PATH, Ringd
from obdsup.supervisor.provider.ringd_memory import living_ringds, remembered

__all__ = ["FuseProvider", "check_geometry"]

_MNT_DETACH = 2
_CLOSED_S = 5.0  # FUSE tells ringd of the last close a moment after it
_LIBC = ctypes.CDLL(None, use_errno=True)


def check_geometry(geometry: DeviceGeometry) -> None:
    """Refuses what can not become a file name or a disk.

    Raises:
        ProviderError: see the message.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,57}", geometry.name):
        raise ProviderError(f"device name {geometry.name!r} can not be a file name here")
    if geometry.size_bytes <= 0 or geometry.size_bytes % 512:
        raise ProviderError(f"device size {geometry.size_bytes} is not a multiple of 512 bytes")


class FuseProvider:
    """See ``base.RingProvider``.

    Args:
        directory: where sockets, mounts and logs go; made when missing.
        binary: the obdsup-ringd program.
        roots: where the kernel shows itself; for tests.
    """

    name = "fuse"

    def __init__(
        self, directory: Path, binary: Path = RINGD_PATH, roots: KernelRoots | None = None
    ) -> None:
        self._directory = directory
        self._binary = binary
        self._roots = roots or KernelRoots()

    def probe(self) -> Probe:
        """Checks privileges, the device nodes and the ringd program, without changing anything."""
        if os.geteuid() != 0:
            return Probe(False, "mounts and loop devices need root")
        for node in ("fuse", "loop-control"):
            path = self._roots.dev / node
            try:
                os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
            except OSError as error:
                return Probe(False, f"{path}: {error.strerror}")
        if not os.access(self._binary, os.X_OK):
            return Probe(False, f"{self._binary} is missing: run make setup")
        return Probe(True, "FUSE and loop devices work here")

    def create(self, geometry: DeviceGeometry) -> ProviderIds:
        check_geometry(geometry)
        ids: ProviderIds = {
            "provider": self.name,
            "socket": str(self._directory / f"{geometry.name}.sock"),
            "mount": str(self._directory / f"{geometry.name}.mnt"),
            "is_read_only": int(geometry.is_read_only),
        }
        mount = Path(str(ids["mount"]))
        ringd = _ringd(ids)
        if ringd.is_alive():
            return ids
        _unmount(mount)  # what a killed ringd left behind
        try:
            mount.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ProviderError(f"{mount}: {error.strerror}") from error
        options = ["--name", geometry.name, "--size", str(geometry.size_bytes)]
        options += ["--mount", str(mount)] + ["--read-only"] * geometry.is_read_only
        log = self._directory / f"{geometry.name}.log"
        ringd.start(self._binary, "fuse", options, log, remembered(geometry))
        return ids

    def found(self, known: Collection[str]) -> list[FoundRing]:
        return [
            FoundRing(
                self.name,
                {
                    "provider": self.name, "socket": str(one.ringd.socket_path),
                    "mount": one.options["mount"], "is_read_only": int(one.geometry.is_read_only),
                },
                one.geometry, one.geometry.is_read_only, one.made_at, is_ours=True,
            )
            for one in living_ringds(self._directory, self.name, known, self._roots)
        ]  # fmt: skip

    def exists(self, ids: ProviderIds) -> bool:
        return _ringd(ids).is_alive()

    def open_ring(self, ids: ProviderIds) -> RingHandle:
        return _ringd(ids).open_ring()

    def resume_ring(self, ids: ProviderIds) -> None:
        """Nothing: a reset is one command to ringd."""

    def publish(self, ids: ProviderIds) -> str:
        disk = _disk(ids)
        node = attach_loop(self._roots, disk, is_read_only=bool(ids.get("is_read_only")))
        return str(node)

    def retract(self, ids: ProviderIds) -> None:
        detach_loop(self._roots, _disk(ids))

    def reset_ring(self, ids: ProviderIds) -> None:
        _ringd(ids).reset()

    def destroy(self, ids: ProviderIds) -> None:
        """Ends the ringd and removes the mount; refuses while a loop device is attached."""
        ringd, mount = _ringd(ids), Path(str(ids["mount"]))
        if ringd.is_alive():
            loop = find_loop(self._roots, _disk(ids))
            if loop is not None:
                raise ProviderError(
                    f"{loop.name} is still attached to {_disk(ids)}", hint="retract it first"
                )
            if wait_for(lambda: ringd.stat().number("open") == 0 or None, _CLOSED_S) is None:
                raise ProviderError(f"{_disk(ids)} is still open", hint="end what uses it")
            ringd.stop()
        _unmount(mount)
        with contextlib.suppress(FileNotFoundError):
            mount.rmdir()


def _ringd(ids: ProviderIds) -> Ringd:
    return Ringd(Path(str(ids["socket"])))


def _disk(ids: ProviderIds) -> Path:
    return Path(str(ids["mount"])) / "disk"


def _unmount(mount: Path) -> None:
    """Unmounts, at once or as soon as it is no longer used. Fine when nothing is mounted."""
    for flags in (0, _MNT_DETACH):
        if _LIBC.umount2(os.fsencode(mount), flags) == 0:
            return
        code = ctypes.get_errno()
        if code in (errno.EINVAL, errno.ENOENT):  # not a mount point
            return
        if code != errno.EBUSY:
            raise ProviderError(f"{mount} can not be unmounted: {os.strerror(code)}")
