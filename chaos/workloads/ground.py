"""Where a workload runs: what a campaign gives to each, and what each asks for."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Ground", "Runtime"]


class Runtime(enum.Enum):
    """What runs the containers."""

    RUNC = "runc"
    CONTAINERD = "containerd"


@dataclass(frozen=True, slots=True)
class Ground:
    """One device for one workload, which has it for itself from ``start`` to ``close``.

    Attributes:
        device: the block device node; a raw workload may be given a file instead.
        mount: where to mount it; made when absent. Raw workloads leave it alone.
        scratch: an existing folder that is not on the device, on a disk or tmpfs: sockets, logs,
            what was acknowledged. Its path should be short: sockets are made below it.
        seed: of everything random in the workload.
        pause_s: between two operations of each client; 0 on a machine that is fast enough.
        patience_s: how long any single step may take before it counts as hung.
        cache: where programs made of Debian packages are kept between runs.
        journal: the device's journal file, for findings that name the worker generations.
    """

    device: Path
    mount: Path
    scratch: Path
    seed: int
    cache: Path
    pause_s: float = 0.0
    patience_s: float = 60.0
    runtime: Runtime = Runtime.RUNC
    journal: Path | None = None
