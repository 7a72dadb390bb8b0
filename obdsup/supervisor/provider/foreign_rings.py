"""Rings that somebody else made for overlaybd: the devices of containerd's snapshotter.

They are known by ``dev_config=overlaybd/PATH[;DEV_ID]``, as overlaybd-tcmu knows them.
"""

from __future__ import annotations

import contextlib
import stat
import uuid
from dataclasses import dataclass
from pathlib import Path

from obdsup.supervisor.provider.base import ProviderIds
from obdsup.supervisor.provider.kernel_files import KernelRoots, holders_of, texts_below
from obdsup.supervisor.provider.tcmu_notice import config_path

__all__ = ["FOREIGN_PROVIDER", "ForeignRing", "foreign_daemons", "foreign_rings", "ring_holders"]

FOREIGN_PROVIDER = "tcmu-foreign"
DAEMON_NAME = "overlaybd-tcmu"
_UUIDS = uuid.UUID("8f1d3c52-6a0b-5e0e-9d39-0b5d7a1c2e44")  # names below are unique within it


@dataclass(frozen=True, slots=True)
class ForeignRing:
    """One enabled TCMU device with an overlaybd dev_config."""

    hba: int
    device: str
    config: str  # dev_config

    @property
    def path(self) -> str:
        """Of config.v1.json."""
        return config_path(self.config)

    @property
    def dev_id(self) -> str:
        """What its maker calls it, "" when it does not; no two that live have the same."""
        return self.config.partition(";")[2]

    @property
    def uuid(self) -> str:
        """Follows from its place in configfs: the same device always has the same."""
        return str(uuid.uuid5(_UUIDS, f"{self.hba}/{self.device}"))

    @property
    def ids(self) -> ProviderIds:
        return {
            "provider": FOREIGN_PROVIDER,
            "hba": self.hba,
            "device": self.device,
            "config": self.config,
        }

    @classmethod
    def of_ids(cls, ids: ProviderIds) -> ForeignRing:
        return cls(int(ids["hba"]), str(ids["device"]), str(ids["config"]))


def foreign_rings(roots: KernelRoots) -> dict[ForeignRing, Path]:
    """All that are enabled now, each with its uio device in sysfs."""
    found = {}
    folder = roots.sys / "class" / "uio"
    for entry, name in texts_below(folder, "name"):
        with contextlib.suppress(ValueError):  # is another's
            kind, hba, device, config = name.split("/", 3)
            if kind == "tcm-user" and config_path(config):
                found[ForeignRing(int(hba), device, config)] = folder / entry
    return found


def ring_holders(roots: KernelRoots, sysfs: Path) -> list[int]:
    """Processes that have a ring open."""
    return holders_of(roots, roots.ensure_node(sysfs, stat.S_IFCHR))


def foreign_daemons(roots: KernelRoots) -> list[int]:
    """The processes that are overlaybd-tcmu."""
    processes = texts_below(roots.proc, "comm")
    return sorted(int(pid) for pid, name in processes if name == DAEMON_NAME and pid.isdigit())
