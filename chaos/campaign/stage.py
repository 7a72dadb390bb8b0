"""What a campaign runs on: devices with a workload each, and what the place offers to faults."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from chaos.faults.base import TargetDevice
from chaos.rig.failpoints import FailPoints
from chaos.rig.node import Node
from chaos.workloads.base import Workload

__all__ = ["ExternalCommands", "LoadedDevice", "Stage", "StageBuilder", "StageOptions"]


@dataclass(frozen=True, slots=True)
class ExternalCommands:
    """How a device of somebody else is started and killed: shell commands; ``start`` may be ""."""

    start: str
    kill: str
    device: Path


@dataclass(frozen=True, slots=True)
class StageOptions:
    """What a stage is asked for. ``pause_s`` lies between two operations of each workload,
    ``workloads`` are names; ``device_cnt`` 0: one for each workload.
    ``has_hooks``: a build with named points instead of the installed one."""

    provider: str
    seed: int
    device_cnt: int
    standbys: int
    workloads: tuple[str, ...]
    runtime: str
    pause_s: float
    patience_s: float
    log_folder: Path
    has_hooks: bool = False
    external: ExternalCommands | None = None


@dataclass(frozen=True, slots=True)
class LoadedDevice:
    """One device and what runs on it."""

    target: TargetDevice
    workload: Workload


@dataclass(slots=True)
class Stage:
    """Everything that was put up; whoever made it takes it down by the stack it gave."""

    node: Node
    scratch: Path
    failpoints: FailPoints | None = None
    loads: list[LoadedDevice] = field(default_factory=list)


class StageBuilder(Protocol):
    """Puts a stage up; what it put up until it raised is taken down by the stack as well."""

    def __call__(self, options: StageOptions, stack: ExitStack) -> Stage: ...
