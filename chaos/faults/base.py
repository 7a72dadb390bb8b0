"""The contract of a fault: what it needs, how it is inflicted, and the proof that it landed."""

from __future__ import annotations

import enum
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from chaos.rig.counters import DeviceJournal
from chaos.rig.failpoints import FailPoints
from chaos.rig.node import Node

__all__ = ["Fault", "Landing", "Need", "Site", "TargetDevice"]


class Need(enum.Enum):
    """What a fault can not do without; a stage says what it offers."""

    ROOT = "root"  # mounts, cgroups, /proc of others
    HOOKS = "hooks"  # the installation was built with named points (see rig/failpoints)
    BLOCK_DEVICE = "block device"  # the device can be read and written from outside
    SUPERVISED = "supervised"  # an obdsup supervisor runs; not with --external-start
    CLOCK = "clock"  # the machine's clock is ours to set: the guest


@dataclass(frozen=True, slots=True)
class TargetDevice:
    """One device of the installation under test.

    ``block_device`` is None under ringd's load front end. Paths of the image are those the worker
    opened; ``lowers`` bottom to top.
    """

    name: str
    journal: DeviceJournal
    block_device: Path | None
    lowers: tuple[Path, ...]
    upper_data: Path | None
    upper_index: Path | None


@dataclass(frozen=True, slots=True)
class Site:
    """Where a fault is inflicted: the installation, the device it is aimed at, and bounds.

    Faults that damage data or cause I/O errors by design make a device of their own (named after
    the fault) and probe it themselves: the devices under workloads must not notice.

    ``is_alone`` is False when another fault strikes before this one is over, or this one before
    another is, or when devices are about to be moved to workers of their own: what that may have
    changed is not wrong then, nor waited for on other devices.
    """

    node: Node
    device: TargetDevice
    folder: Path  # scratch of this fault, on a disk; may be gone before the next
    patience_s: float
    failpoints: FailPoints | None = None  # of an installation with test hooks
    is_alone: bool = True


@dataclass(frozen=True, slots=True)
class Landing:
    """What came of one fault; times are CLOCK_MONOTONIC nanoseconds.

    Attributes:
        begun_ns: just before it was inflicted.
        served_ns: service proven to be back (first completion after it), or its effect over.
        has_landed: it met what it was aimed at: commands in flight, a named point, a read of the
            damaged block; never just "the call was made".
        evidence: one line that says by what this is known.
        recovered: in-flight commands a successor executed again because of it.
        already_done: those it found finished but not yet marked.
        wrong: what should not have come of it, one line each; empty on a healthy system.
        workers_killed, supervisors_killed: how many processes died of it.
        kernel_lines: regular expressions of what the kernel says because of it, by design: errors
            of a device of the fault's own, a report of its OOM killer.
    """

    begun_ns: int
    served_ns: int
    has_landed: bool
    evidence: str
    recovered: int = 0
    already_done: int = 0
    wrong: tuple[str, ...] = ()
    workers_killed: int = 0
    supervisors_killed: int = 0
    kernel_lines: tuple[str, ...] = ()


class Fault(Protocol):
    """One kind of fault. Stateless: what a run needs is in the site and the random source."""

    kind: str  # as on the command line and in chaos.json: "worker-kill"
    about: str  # one line for --help: what is done, and what must come of it
    needs: frozenset[Need]

    def inflict(self, site: Site, chance: random.Random) -> Landing:
        """Does it, undoes what it put up, and waits until the device is served again.

        Everything random comes from ``chance``. Whatever it changed on the installation is as
        before when it returns or raises.

        Raises:
            RigError: service did not come back within the patience, or it could not be inflicted.
        """
