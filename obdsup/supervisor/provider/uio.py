"""The user-space end of a TCMU device: /dev/uioN, found by what the kernel calls it."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from obdsup.errors import ProviderError
from obdsup.supervisor.provider.kernel_files import KernelRoots, holders_of, texts_below

__all__ = ["Uio", "find_uio", "open_uio"]

_MAP_MAX_BYTES = 4 << 30


@dataclass(frozen=True, slots=True)
class Uio:
    """One uio device of TCMU."""

    sysfs: Path
    name: str
    map_bytes: int


def find_uio(roots: KernelRoots, hba: int, device: str) -> Uio | None:
    """The uio of a TCMU device, or None. Its number may differ after each enable: never kept."""
    prefix = f"tcm-user/{hba}/{device}/"
    folder = roots.sys / "class" / "uio"
    for entry, name in texts_below(folder, "name"):
        if not name.startswith(prefix):
            continue
        sysfs = folder / entry
        try:
            size = (sysfs / "maps" / "map0" / "size").read_text().strip()
        except OSError:  # went away while we looked
            continue
        map_bytes = int(size, 16)
        if not 0 < map_bytes <= _MAP_MAX_BYTES:
            raise ProviderError(f"{sysfs}: map0 of {map_bytes} bytes is not a ring")
        return Uio(sysfs, name, map_bytes)
    return None


def open_uio(roots: KernelRoots, uio: Uio) -> int:
    """Opens the ring; the caller owns the fd.

    Raises:
        ProviderError: field ``holders`` lists the processes that have it open, when that is why.
    """
    node = roots.ensure_node(uio.sysfs, stat.S_IFCHR)
    try:
        return os.open(node, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise ProviderError(f"{node}: {error.strerror}") from error
        holders = holders_of(roots, node)
        who = f"process {', '.join(map(str, holders))}" if holders else "a process not in /proc"
        raise ProviderError(
            f"{node}: ring is held open by {who}",
            hint="a ring can be opened once: let its holder hand it over or end",
            holders=holders,
            is_busy=True,
        ) from error
