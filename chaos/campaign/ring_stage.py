"""The stage of ringd's load front end: no block device, no mount, every read checked."""

from __future__ import annotations

import contextlib
import os
from contextlib import ExitStack
from pathlib import Path

from chaos.campaign.installation import Installation
from chaos.campaign.ring_load import RingLoad
from chaos.campaign.stage import LoadedDevice, Stage, StageOptions
from chaos.faults.base import TargetDevice
from chaos.rig.blank_image import BlankImage
from chaos.rig.counters import DeviceJournal
from chaos.rig.problem import say
from chaos.rig.process import processes_naming

__all__ = ["build_ring_stage"]

LOWEST_PRIORITY = 19
SIZE_BYTES = 64 * 1024 * 1024
# Unlike each other: many small commands, large ones, mostly writes, flushes. Limited, so that there
# is time for the next standby to start, and so that the index it reads stays short; in bursts long
# enough for a kill to meet one.
LOADS = (
    "--iops 2000 --qd 64 --read-percent 80 --max-sectors 32 --flush-percent 0 --discard-percent 2",
    "--iops 1000 --qd 32 --read-percent 70 --max-sectors 256 --flush-percent 0 --discard-percent 4",
    "--iops 2000 --qd 64 --read-percent 60 --max-sectors 8 --flush-percent 0 --discard-percent 1",
    "--iops 500 --qd 16 --read-percent 70 --max-sectors 32 --flush-percent 3 --discard-percent 2",
)
DEFAULT_DEVICES = len(LOADS)


def build_ring_stage(options: StageOptions, stack: ExitStack) -> Stage:
    """See ``StageBuilder``; the devices are called d0, d1, …"""
    installation = Installation.build(stack, options)
    node = installation.node
    stage = Stage(node, installation.scratch, installation.failpoints)
    for number in range(options.device_cnt or DEFAULT_DEVICES):
        name = f"d{number}"
        load = f"{LOADS[number % len(LOADS)]} --seed {options.seed + number}"
        say(f"device: create {name} ({load})")
        stage.loads.append(_make_device(installation, name, load))
    return stage


def _make_device(installation: Installation, name: str, load: str) -> LoadedDevice:
    node = installation.node
    journal = DeviceJournal(node.run_dir, name)
    workload = RingLoad(node, name, journal)
    workload.write_options(load)
    image = BlankImage.make(node, installation.scratch, name, SIZE_BYTES)
    node.obdsup("device", "create", name, "--image", str(image.config), "--writable")
    _be_nice(node.run_dir / "rings")
    target = TargetDevice(name, journal, None, (), image.data, image.index)
    return LoadedDevice(target, workload)


def _be_nice(rings: Path) -> None:
    """The generators take what processor time is left: a standby's start must not wait for it."""
    for process in processes_naming(rings):
        with contextlib.suppress(ProcessLookupError):
            os.setpriority(os.PRIO_PROCESS, process.pid, LOWEST_PRIORITY)
