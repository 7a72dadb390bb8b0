"""Ring provider ``tcmu-foreign``: TCMU devices that somebody else makes, shows and takes away.

Here only their rings are opened. Who made a device (containerd's snapshotter) links it to tcm_loop
and removes it; ``publish``, ``retract`` and ``destroy`` have nothing to do.
"""

from __future__ import annotations

import mmap
import os
import struct
import uuid
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
from obdsup.supervisor.provider.configfs import Configfs
from obdsup.supervisor.provider.foreign_rings import FOREIGN_PROVIDER, foreign_rings
from obdsup.supervisor.provider.kernel_files import KernelRoots
from obdsup.supervisor.provider.scsi_disk import find_disk
from obdsup.supervisor.provider.uio import Uio, find_uio, open_uio

__all__ = ["ForeignTcmuProvider"]

_HEAD_OFFSET, _TAIL_OFFSET = 12, 64  # cmd_head and cmd_tail in the mailbox
_HELD_UP_S = 60.0
_GONE_HINT = "whoever made it has removed it"


class ForeignTcmuProvider:
    """See ``base.RingProvider``.

    Args:
        directory: not used.
        roots, configfs: where the kernel shows itself; for tests.
    """

    name = FOREIGN_PROVIDER

    def __init__(
        self,
        directory: Path | None = None,
        roots: KernelRoots | None = None,
        configfs: Configfs | None = None,
    ) -> None:
        self._roots = roots or KernelRoots()
        self._configfs = configfs or Configfs(_HELD_UP_S)

    def probe(self) -> Probe:
        if (self._roots.sys / "module" / "target_core_user").is_dir():
            return Probe(True, "devices made in configfs can be served")
        return Probe(False, "the module target_core_user is not loaded")

    def create(self, geometry: DeviceGeometry) -> ProviderIds:
        """Finds the device by its uuid and makes its ring fit to be served from its start.

        What another server left in the ring can not be trusted: commands in flight are sent again.
        The ring is open meanwhile, so no other server can have it.
        """
        wanted = str(uuid.UUID(geometry.uuid))
        for ring in foreign_rings(self._roots):
            if ring.uuid == wanted:
                break
        else:
            raise ProviderError(f"device {geometry.name}: not in configfs", hint=_GONE_HINT)
        uio = self._require_uio(ring.ids)
        fd = open_uio(self._roots, uio)
        try:
            if _was_used(fd, uio.map_bytes):
                self.reset_ring(ring.ids)
        finally:
            os.close(fd)
        waits = self.waits_for_answers(ring.hba, ring.device)
        return {**ring.ids, "waits": int(waits)}  # not to be seen any more while it is removed

    def exists(self, ids: ProviderIds) -> bool:
        return self._find_uio(ids) is not None

    def found(self, known: Collection[str]) -> list[FoundRing]:
        """None: whose they are only a worker that serves them can tell."""
        return []

    def open_ring(self, ids: ProviderIds) -> RingHandle:
        uio = self._require_uio(ids)
        fd = open_uio(self._roots, uio)
        try:
            if self._configfs.read(self._action(ids) / "block_dev") == "blocked":
                self._configfs.write(self._action(ids) / "block_dev", "0")
        except BaseException:
            os.close(fd)
            raise
        return RingHandle("uio", [fd], uio.map_bytes)

    def publish(self, ids: ProviderIds) -> str:
        """The disk's path; "" as long as nobody linked the device to tcm_loop."""
        return self.disks().get((int(ids["hba"]), str(ids["device"])), "")

    def disks(self) -> dict[tuple[int, str], str]:
        """The paths of all disks of tcm_loop, by HBA and device."""
        loopback = self._roots.sys / "kernel" / "config" / "target" / "loopback"
        found = {}
        for link in loopback.glob("*/tpgt_*/lun/lun_*/*"):
            core = link.resolve() if link.is_symlink() else link
            hba = core.parent.name.removeprefix("user_")
            if core == link or not hba.isdecimal():
                continue
            address = self._configfs.read(link.parents[2] / "address")
            disk = find_disk(self._roots, address) if address else None
            if disk is not None:
                found[int(hba), core.name] = str(disk.node)
        return found

    def retract(self, ids: ProviderIds) -> None:
        """The disk is not ours to take away."""

    def resume_ring(self, ids: ProviderIds) -> None:
        action = self._action(ids)
        if self._configfs.read(action / "block_dev") == "blocked":
            self._configfs.write(action / "block_dev", "0")

    def reset_ring(self, ids: ProviderIds) -> None:
        action = self._action(ids)
        self._configfs.write(action / "block_dev", "1")
        try:
            self._configfs.write(action / "reset_ring", "1")
        finally:
            self._configfs.write(action / "block_dev", "0")

    def destroy(self, ids: ProviderIds) -> None:
        """The device is not ours to take away."""

    def waits_for_answers(self, hba: int, device: str) -> bool:
        """Whether the kernel waits for answers to what it tells of a device, while it is there."""
        attributes = self._core({"hba": hba, "device": device}) / "attrib"
        try:
            return int(self._configfs.read(attributes / "nl_reply_supported") or "1") > 0
        except ValueError:
            return True

    def _core(self, ids: ProviderIds) -> Path:
        target = self._roots.sys / "kernel" / "config" / "target"
        return target / "core" / f"user_{ids['hba']}" / str(ids["device"])

    def _action(self, ids: ProviderIds) -> Path:
        return self._core(ids) / "action"

    def _find_uio(self, ids: ProviderIds) -> Uio | None:
        """Made again under its name for another image, it is another device."""
        uio = find_uio(self._roots, int(ids["hba"]), str(ids["device"]))
        expected = f"tcm-user/{ids['hba']}/{ids['device']}/{ids['config']}"
        return uio if uio is not None and uio.name == expected else None

    def _require_uio(self, ids: ProviderIds) -> Uio:
        uio = self._find_uio(ids)
        if uio is None:
            raise ProviderError(f"{self._core(ids)}: no uio device", hint=_GONE_HINT, is_gone=True)
        return uio


def _was_used(fd: int, map_bytes: int) -> bool:
    """Whether anything was ever put on the ring: both positions are 0 in a new one."""
    with mmap.mmap(fd, map_bytes, prot=mmap.PROT_READ) as ring:
        (head,) = struct.unpack_from("=I", ring, _HEAD_OFFSET)
        (tail,) = struct.unpack_from("=I", ring, _TAIL_OFFSET)
    return bool(head or tail)
