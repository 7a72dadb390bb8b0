"""What a ringd is given to remember of its device, as the kernel remembers a TCMU device's config.

It is in the ringd's environment, which ``/proc`` shows as long as it lives; name and size are on
its command line. A supervisor that lost the device's row finds all of it there.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from obdsup.errors import ProviderError
from obdsup.supervisor.provider.base import DeviceGeometry
from obdsup.supervisor.provider.kernel_files import KernelRoots
from obdsup.supervisor.provider.ringd import Ringd

__all__ = ["LivingRingd", "living_ringds", "remembered"]

UUID, CONFIG = "OBDSUP_DEVICE_UUID", "OBDSUP_DEVICE_CONFIG"
_START_FIELD = 19  # of /proc/PID/stat, counted after the name: clock ticks since boot


@dataclass(frozen=True, slots=True)
class LivingRingd:
    """A ringd that was found by its socket."""

    ringd: Ringd
    options: dict[str, str]  # of its command line, "" for flags
    geometry: DeviceGeometry
    made_at: float  # Unix time, seconds


def remembered(geometry: DeviceGeometry) -> dict[str, str]:
    """The environment that ``living_ringds`` reads."""
    return {UUID: geometry.uuid, CONFIG: geometry.config_path}


def living_ringds(
    directory: Path, front: str, known: Collection[str], roots: KernelRoots
) -> Iterator[LivingRingd]:
    """Those of one front end below ``directory``, but for devices whose names are known."""
    for path in sorted(directory.glob("*.sock")):
        if path.stem in known:
            continue
        ringd = Ringd(path)
        with contextlib.suppress(ProviderError, OSError, ValueError, KeyError, IndexError):
            process = roots.proc / str(ringd.pid())
            argv = _strings(process / "cmdline")
            if argv[1] != front:
                continue
            options = _options(argv[2:])
            environment = dict(pair.partition("=")[::2] for pair in _strings(process / "environ"))
            geometry = DeviceGeometry(
                options["name"], environment[UUID], int(options["size"]), "read-only" in options,
                environment[CONFIG],
            )  # fmt: skip
            yield LivingRingd(ringd, options, geometry, _started_at(process))


def _strings(path: Path) -> list[str]:
    return path.read_bytes().decode(errors="surrogateescape").removesuffix("\0").split("\0")


def _options(words: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            name = word.removeprefix("--")
            found[name] = ""
        elif name:
            found[name] = word
    return found


def _started_at(process: Path) -> float:
    ticks = int((process / "stat").read_text().rsplit(")", 1)[1].split()[_START_FIELD])
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - age_s
