"""All workloads by name: how each is made, on what image, and what it needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from chaos.rig import containerd
from chaos.workloads import containers, files
from chaos.workloads.base import Workload
from chaos.workloads.fio.workload import Fio
from chaos.workloads.ground import Ground, Runtime
from chaos.workloads.sectors import Sectors

__all__ = ["CATALOGUE", "WorkloadEntry", "make", "prepare"]

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class WorkloadEntry:
    """One workload.

    Attributes:
        make: on a ground; see ``Workload``.
        about: one line: what it does and how it judges.
        tools: programs on the PATH that it stands on; a place without one can not run it.
        image: builds the device's image in a cache folder and returns its config.v1.json; None for
            a blank disk of ``size_bytes``.
        has_container: it runs in one, of the ground's runtime.
    """

    make: Callable[[Ground], Workload]
    about: str
    tools: tuple[str, ...] = ()
    image: Callable[[Path], Path] | None = None
    size_bytes: int = 256 * MIB
    has_container: bool = False


CATALOGUE: dict[str, WorkloadEntry] = {
    "sectors": WorkloadEntry(Sectors, "stamped sectors: lost, stale, misplaced, corrupt"),
    "fio": WorkloadEntry(Fio, "random writes with crc32c, read back after each lap", ("fio",)),
    "metadata": WorkloadEntry(
        files.metadata,
        "ext4 calls of all kinds against a model of the tree, e2fsck and the whole tree at the end",
        ("mke2fs", "e2fsck"),
    ),
    "sqlite": WorkloadEntry(
        files.sqlite,
        "rollback journal and WAL, writers killed, copies opened, every transaction accounted for",
        ("mke2fs", "e2fsck"),
    ),
    "redis": WorkloadEntry(
        containers.redis,
        "SETs fsynced one by one, every answer judged, every key read back after a restart",
        ("apt-get", "e2fsck", "runc"),
        containers.redis_image,
        has_container=True,
    ),
    "git": WorkloadEntry(
        containers.git,
        "commits, packs and builds; each commit and each result of the build accounted for",
        ("apt-get", "e2fsck", "runc"),
        containers.git_image,
        has_container=True,
    ),
}


def make(name: str, ground: Ground) -> Workload:
    """The workload of this name on this ground.

    Raises:
        ValueError: no workload has this name; says which there are.
    """
    if name not in CATALOGUE:
        raise ValueError(f"no workload is called {name!r}; there are {', '.join(CATALOGUE)}")
    return CATALOGUE[name].make(ground)


def prepare(names: Iterable[str], cache: Path, runtime: Runtime) -> None:
    """Puts into the cache all that these workloads need: where they run there may be no network.

    Raises:
        RigError: a package can not be had, or a tool refused.
    """
    entries = [CATALOGUE[name] for name in names]
    for entry in entries:
        if entry.image is not None:
            entry.image(cache)
    if runtime is Runtime.CONTAINERD and any(entry.has_container for entry in entries):
        containerd.programs(cache)
