"""Ring provider ``tcmu``: target_core_user is the other side of the ring, tcm_loop shows /dev/sdX.

Objects of one device, in the order they are made; teardown goes the other way, and each step looks
at what is there, so that a device left half made or half removed is completed by the next call::

    target/core/user_HBA/                    one HBA per device (see DESIGN.md)
    target/core/user_HBA/obdsup-NAME/        control, attributes, enable    -> /dev/uioN
    target/loopback/naa.TARGET/tpgt_1/       nexus                          -> a SCSI host
    target/loopback/naa.TARGET/tpgt_1/lun/lun_0/obdsup-NAME -> ../../user_HBA/obdsup-NAME
                                                                            -> /dev/sdX

HBA number and WWNs follow from the device's uuid: nothing needs to be remembered to find a device
again. What hangs without a serving worker, and how that is bounded: ``configfs``.

Source: target_core_user.h; Linux Documentation/target/tcmu-design.rst.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import subprocess
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
from obdsup.supervisor.provider.configfs import Configfs, is_configfs_mounted
from obdsup.supervisor.provider.kernel_files import KernelRoots, wait_for
from obdsup.supervisor.provider.scsi_disk import find_disk, require_unused, wait_for_disk
from obdsup.supervisor.provider.uio import Uio, find_uio, open_uio

__all__ = ["TcmuProvider", "device_config", "ids_of"]

_MODULES = ("target_core_user", "tcm_loop", "sd_mod")
_CONFIG_MAX_BYTES = 255  # TCMU_CONFIG_LEN without its NUL
_SECTOR_BYTES = 512
_HBA_BASE = 1 << 30  # above what people and other programs number by hand
_DATA_AREA_MB = 64
_COMMAND_RING_MB = 1
_HELD_UP_S = 60.0  # bounds a kernel call that a missing worker holds up
_APPEARS_S = 30.0
_OPENERS_LEAVE_S = 3.0


def device_config(config_path: str, name: str) -> str:
    """The dev_config of a device: its config path, or its name where TCMU can not take the path.

    TCMU cuts its options at commas and keeps 255 bytes.
    """
    config = f"obdsup/{config_path}"
    if re.search(r"[,\s]", config) or len(config.encode()) > _CONFIG_MAX_BYTES:
        config = f"obdsup/{name}"
    return config


def ids_of(geometry: DeviceGeometry) -> ProviderIds:
    """What identifies a device here; the same uuid always gives the same numbers."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", geometry.name):
        raise ProviderError(f"device name {geometry.name!r} can not be a configfs name")
    if geometry.size_bytes <= 0 or geometry.size_bytes % _SECTOR_BYTES:
        raise ProviderError(f"device size {geometry.size_bytes} is not a multiple of 512 bytes")
    digest = hashlib.sha256(uuid.UUID(geometry.uuid).bytes).hexdigest()
    return {
        "provider": "tcmu",
        "device": f"obdsup-{geometry.name}",
        "uuid": str(uuid.UUID(geometry.uuid)),
        "hba": _HBA_BASE | int(digest[:8], 16) & (_HBA_BASE - 1),
        "target_wwn": f"naa.5001405{digest[8:17]}",
        "nexus_wwn": f"naa.5001405{digest[17:26]}",
        "size_bytes": geometry.size_bytes,
        "is_read_only": int(geometry.is_read_only),
        "config": device_config(geometry.config_path, geometry.name),
    }


class TcmuProvider:
    """See ``base.RingProvider``. Keeps nothing: all there is to know is in configfs."""

    name = "tcmu"

    def __init__(
        self,
        _rings_dir: Path | None = None,
        *,
        roots: KernelRoots | None = None,
        configfs: Configfs | None = None,
    ) -> None:
        """The first argument is what every provider is made with; here it has no use."""
        self._roots = roots or KernelRoots()
        self._configfs = configfs or Configfs(_HELD_UP_S)
        self._target = self._roots.sys / "kernel" / "config" / "target"

    # --- the host -------------------------------------------------------------------------------

    def probe(self) -> Probe:
        """Needs root, the modules loaded or loadable, and configfs mounted or mountable."""
        if os.geteuid() != 0:
            return Probe(False, "tcmu needs root")
        for module in _MODULES:
            if not self._is_loaded(module) and not _modprobe(module, "-n"):
                return Probe(False, f"this kernel has no module {module}")
        if not (self._roots.sys / "kernel" / "config").is_dir() and not _modprobe("configfs", "-n"):
            return Probe(False, "this kernel has no configfs")
        return Probe(True, "target_core_user and tcm_loop are there")

    def _is_loaded(self, module: str) -> bool:
        return (self._roots.sys / "module" / module).is_dir()

    def prepare_host(self) -> None:
        """Loads the modules and mounts configfs where that was not done."""
        mount_point = self._roots.sys / "kernel" / "config"
        for module in _MODULES:
            if not self._is_loaded(module) and not _modprobe(module):
                raise ProviderError(
                    f"modprobe {module} failed", hint="use the provider fuse on this host"
                )
        mountinfo = (self._roots.proc / "self" / "mountinfo").read_text()
        if not is_configfs_mounted(mountinfo, mount_point):
            done = subprocess.run(
                ["mount", "-t", "configfs", "configfs", str(mount_point)],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            if not self._target.is_dir():
                raise ProviderError(
                    f"{mount_point}: configfs is not mounted: {done.stderr.strip()}",
                    hint=f"mount -t configfs configfs {mount_point}",
                )
        self._configfs.make(self._target / "loopback")

    # --- the ring -------------------------------------------------------------------------------

    def create(self, geometry: DeviceGeometry) -> ProviderIds:
        ids = ids_of(geometry)
        self.prepare_host()
        device = self._device(ids)
        self._configfs.make(device.parent)
        self._configfs.make(device)
        if self._configfs.read(device / "enable") != "1":
            self._configfs.write(device / "control", _control(ids))
            self._configfs.write_bounded(
                device / "enable", "1", lambda: self._configfs.read(device / "enable") == "1"
            )
        uio = wait_for(lambda: self._find_uio(ids), _APPEARS_S)
        if uio is None:
            raise ProviderError(f"{device}: enabled, but no uio device appeared")
        self._require_same(device, uio, ids)
        if self._configfs.read(device / "attrib" / "cmd_time_out") != "0":
            # Refused once a LUN is linked; that is why it is here and not in publish.
            self._configfs.write(device / "attrib" / "cmd_time_out", "0")
        if str(ids["uuid"]) not in self._configfs.read(device / "wwn" / "vpd_unit_serial"):
            self._configfs.write(device / "wwn" / "vpd_unit_serial", str(ids["uuid"]))
        return ids

    def _require_same(self, device: Path, uio: Uio, ids: ProviderIds) -> None:
        expected = f"tcm-user/{ids['hba']}/{ids['device']}/{ids['config']}"
        found_bytes = self._configfs.read(device / "attrib" / "dev_size")
        if uio.name != expected or found_bytes != str(ids["size_bytes"]):
            raise ProviderError(
                f"{device} exists as {uio.name} of {found_bytes} bytes,"
                f" expected {expected} of {ids['size_bytes']}",
                hint="remove the device first",
            )

    def exists(self, ids: ProviderIds) -> bool:
        return self._find_uio(ids) is not None

    def found(self, known: Collection[str]) -> list[FoundRing]:
        """Whether a device is of this supervisor its journal has to show: configfs is the host's.

        The numbers of a device follow from its uuid; one where they do not is left out, and so is
        one whose config path did not fit.
        """
        rings = []
        for device in sorted((self._target / "core").glob("user_*/obdsup-*")):
            name = device.name.removeprefix("obdsup-")
            if name not in known:
                with contextlib.suppress(ProviderError, OSError, ValueError):
                    rings.append(self._found(device, name))
        return rings

    def _found(self, device: Path, name: str) -> FoundRing:
        """Raises ValueError, ProviderError or OSError: it does not show enough."""
        uio = find_uio(self._roots, int(device.parent.name.removeprefix("user_")), device.name)
        if uio is None:
            raise ValueError(name)
        config = uio.name.split("/", 3)[3]
        serial = self._configfs.read(device / "wwn" / "vpd_unit_serial").rpartition(":")[2].strip()
        size_bytes = int(self._configfs.read(device / "attrib" / "dev_size"))
        geometry = DeviceGeometry(name, serial, size_bytes, False, config.removeprefix("obdsup/"))
        ids = ids_of(geometry)
        if self._device(ids) != device or ids["config"] != config:
            raise ValueError(name)
        address = self._address(ids) if self._group(ids).is_dir() else ""
        disk = find_disk(self._roots, address) if address else None
        is_read_only = None if disk is None else disk.is_read_only
        ids["is_read_only"] = int(bool(is_read_only))
        return FoundRing(
            self.name, ids, geometry, is_read_only, device.stat().st_mtime, is_ours=False
        )

    def open_ring(self, ids: ProviderIds) -> RingHandle:
        uio = self._find_uio(ids)
        if uio is None:
            raise ProviderError(f"{self._device(ids)}: no uio device", hint="create it again")
        fd = open_uio(self._roots, uio)
        try:
            self._unblock(self._device(ids))
        except BaseException:
            os.close(fd)
            raise
        return RingHandle("uio", [fd], uio.map_bytes)

    def resume_ring(self, ids: ProviderIds) -> None:
        self._unblock(self._device(ids))

    def reset_ring(self, ids: ProviderIds) -> None:
        device = self._device(ids)
        self._configfs.write(device / "action" / "block_dev", "1")
        try:
            self._configfs.write(device / "action" / "reset_ring", "1")
        finally:
            self._configfs.write(device / "action" / "block_dev", "0")

    def _unblock(self, device: Path) -> None:
        """Undoes what a supervisor left that died inside ``reset_ring``."""
        if self._configfs.read(device / "action" / "block_dev") == "blocked":
            self._configfs.write(device / "action" / "block_dev", "0")

    def destroy(self, ids: ProviderIds) -> None:
        device = self._device(ids)
        if self._link(ids).is_symlink():
            raise ProviderError(
                f"{device} is still published", hint="retract it while a worker serves it"
            )
        self._remove_target(ids)
        self._configfs.remove(device)
        self._configfs.remove(device.parent)

    # --- the block device -----------------------------------------------------------------------

    def publish(self, ids: ProviderIds) -> str:
        device, group = self._device(ids), self._group(ids)
        if not self.exists(ids):
            raise ProviderError(f"{device}: no uio device", hint="create it again")
        for path in (group.parent, group):
            self._configfs.make(path)
        if not self._configfs.read(group / "nexus"):
            self._configfs.write(group / "nexus", str(ids["nexus_wwn"]))
        self._configfs.make(self._link(ids).parent)
        self._configfs.link(self._link(ids), device)
        disk = wait_for_disk(self._roots, self._address(ids), _APPEARS_S)
        disk.tolerate_outages()
        if disk.size_bytes != ids["size_bytes"]:
            raise ProviderError(
                f"{disk.node} has {disk.size_bytes} bytes, expected {ids['size_bytes']}",
                hint="does the worker serve the image this device was made for?",
            )
        if ids["is_read_only"]:
            disk.make_read_only()
        return str(disk.node)

    def retract(self, ids: ProviderIds) -> None:
        address = self._address(ids)
        disk = find_disk(self._roots, address) if address else None
        if disk is not None:
            require_unused(self._roots, disk, _OPENERS_LEAVE_S)
            self._configfs.flush(disk.node)
        self._configfs.unlink(self._link(ids))
        self._remove_target(ids)

    def _remove_target(self, ids: ProviderIds) -> None:
        group = self._group(ids)
        for path in (self._link(ids).parent, group, group.parent):
            self._configfs.remove(path)

    # --- where things are -----------------------------------------------------------------------

    def _device(self, ids: ProviderIds) -> Path:
        return self._target / "core" / f"user_{ids['hba']}" / str(ids["device"])

    def _group(self, ids: ProviderIds) -> Path:
        return self._target / "loopback" / str(ids["target_wwn"]) / "tpgt_1"

    def _link(self, ids: ProviderIds) -> Path:
        return self._group(ids) / "lun" / "lun_0" / str(ids["device"])

    def _address(self, ids: ProviderIds) -> str:
        return self._configfs.read(self._group(ids) / "address")

    def _find_uio(self, ids: ProviderIds) -> Uio | None:
        return find_uio(self._roots, int(ids["hba"]), str(ids["device"]))


def _modprobe(module: str, *options: str) -> bool:
    command = ["modprobe", "-q", *options, module]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _control(ids: ProviderIds) -> str:
    return (
        f"dev_config={ids['config']},dev_size={ids['size_bytes']},"
        f"hw_block_size={_SECTOR_BYTES},hw_max_sectors=1024,"
        f"max_data_area_mb={_DATA_AREA_MB},cmd_ring_size_mb={_COMMAND_RING_MB},"
        "nl_reply_supported=-1"
    )
