"""The stage of block devices: a device per workload, raw, mounted or with a container on it."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from pathlib import Path

from chaos.campaign.installation import Installation
from chaos.campaign.stage import LoadedDevice, Stage, StageOptions
from chaos.faults.base import TargetDevice
from chaos.rig.blank_image import BlankImage
from chaos.rig.counters import DeviceJournal
from chaos.rig.image import CACHE
from chaos.rig.problem import RigError, say
from chaos.workloads import catalogue
from chaos.workloads.ground import Ground, Runtime

__all__ = ["build_block_stage"]


def build_block_stage(options: StageOptions, stack: ExitStack) -> Stage:
    """See ``StageBuilder``; each device is called as its workload.

    Raises:
        RigError: as ``Installation.build``, or a device could not be made.
    """
    if os.geteuid() != 0:
        raise RigError(f"provider {options.provider} needs root: mounts and block devices")
    images = {name: catalogue.CATALOGUE[name].image for name in options.workloads}
    configs = {name: build(CACHE) for name, build in images.items() if build is not None}
    installation = Installation.build(stack, options)
    stage = Stage(installation.node, installation.scratch, installation.failpoints)
    for number, name in enumerate(options.workloads):
        stack.callback(installation.node.remove_device, name)
        config = configs.get(name) or _blank(installation, name)
        target = _make_device(installation, name, config)
        ground = _ground(options, installation, target, number)
        stage.loads.append(LoadedDevice(target, catalogue.make(name, ground)))
    return stage


def _blank(installation: Installation, name: str) -> Path:
    size_bytes = catalogue.CATALOGUE[name].size_bytes
    return BlankImage.make(installation.node, installation.scratch, name, size_bytes).config


def _make_device(installation: Installation, name: str, config: Path) -> TargetDevice:
    node = installation.node
    say(f"device: create {name}")
    row = node.obdsup("device", "create", name, "--image", str(config), "--writable")
    if not row["block_device"]:
        raise RigError(f"device {name} has no block device")
    lowers = tuple(Path(lower["file"]) for lower in json.loads(config.read_text())["lowers"])
    return TargetDevice(
        name=name,
        journal=DeviceJournal(node.run_dir, name),
        block_device=Path(row["block_device"]),
        lowers=lowers,
        upper_data=Path(row["upper"]["data"]),
        upper_index=Path(row["upper"]["index"]),
    )


def _ground(
    options: StageOptions, installation: Installation, target: TargetDevice, number: int
) -> Ground:
    assert target.block_device is not None
    scratch = installation.node.run_dir / "w" / target.name
    scratch.mkdir(parents=True)
    return Ground(
        device=target.block_device,
        mount=installation.node.run_dir / "mnt" / target.name,
        scratch=scratch,
        seed=options.seed + number,
        cache=CACHE,
        pause_s=options.pause_s,
        patience_s=options.patience_s,
        runtime=Runtime(options.runtime),
        journal=installation.node.run_dir / "devices" / target.name / "inflight",
    )
