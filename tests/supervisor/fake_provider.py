"""A ring provider whose rings are memfds that nobody fills, kept alive by a holder process.

The identity of a ring is the pid of its holder; the fds are found again in the holder's /proc/fd.
Failures are planted with files in the rings folder: ``fail-STEP`` makes that step fail,
``block-STEP`` makes it wait until the file is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path

from obdsup.errors import ProviderError
from obdsup.supervisor.provider.base import (
    DeviceGeometry,
    FoundRing,
    Probe,
    ProviderIds,
    RingHandle,
)

MAP_BYTES = 1 << 20
HOLDER = f"""
import os, signal
os.ftruncate(os.memfd_create("ring"), {MAP_BYTES})
os.eventfd(0); os.eventfd(0)
print("ready", flush=True)
signal.pause()
"""


class FakeProvider:
    """See the module."""

    name = "fake"

    def __init__(self, rings_dir: Path) -> None:
        self._dir = rings_dir
        self._dir.mkdir(parents=True, exist_ok=True)

    def probe(self) -> Probe:
        return Probe(True, "a fake works everywhere")

    def create(self, geometry: DeviceGeometry) -> ProviderIds:
        self._step("create", geometry.name)
        path = self._dir / f"{geometry.name}.pid"
        if path.exists():
            return {"name": geometry.name, "holder": int(path.read_text())}
        holder = subprocess.Popen(
            [sys.executable, "-S", "-c", HOLDER], stdout=subprocess.PIPE, start_new_session=True
        )
        assert holder.stdout is not None
        holder.stdout.readline()
        holder.stdout.close()
        path.write_text(str(holder.pid))
        (self._dir / f"{geometry.name}.json").write_text(json.dumps(asdict(geometry)))
        return {"name": geometry.name, "holder": holder.pid}

    def exists(self, ids: ProviderIds) -> bool:
        return Path(f"/proc/{ids['holder']}").exists()

    def found(self, known: Collection[str]) -> list[FoundRing]:
        rings = []
        for path in sorted(self._dir.glob("*.pid")):
            if path.stem not in known:
                geometry = DeviceGeometry(**json.loads(path.with_suffix(".json").read_text()))
                ids: ProviderIds = {"name": path.stem, "holder": int(path.read_text())}
                made_at = path.stat().st_mtime
                rings.append(
                    FoundRing("fuse", ids, geometry, geometry.is_read_only, made_at, is_ours=True)
                )
        return rings

    def open_ring(self, ids: ProviderIds) -> RingHandle:
        self._step("open_ring", str(ids["name"]))
        paths = [f"/proc/{ids['holder']}/fd/{number}" for number in (3, 4, 5)]
        fds = [os.open(paths[0], os.O_RDWR | os.O_CLOEXEC)]
        fds += [os.eventfd(0, os.EFD_CLOEXEC) for _ in paths[1:]]
        return RingHandle("memfd", fds, MAP_BYTES)

    def resume_ring(self, ids: ProviderIds) -> None:
        self._step("resume_ring", str(ids["name"]))

    def publish(self, ids: ProviderIds) -> str:
        self._step("publish", str(ids["name"]))
        return f"/dev/fake-{ids['name']}"

    def retract(self, ids: ProviderIds) -> None:
        self._step("retract", str(ids["name"]))

    def reset_ring(self, ids: ProviderIds) -> None:
        self._step("reset_ring", str(ids["name"]))

    def destroy(self, ids: ProviderIds) -> None:
        self._step("destroy", str(ids["name"]))
        path = self._dir / f"{ids['name']}.pid"
        if path.exists():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(path.read_text()), signal.SIGKILL)
            path.unlink()

    def _step(self, step: str, name: str) -> None:
        with (self._dir / "calls").open("a") as calls:
            calls.write(f"{step} {name}\n")
        while (self._dir / f"block-{step}").exists():
            time.sleep(0.005)
        if (self._dir / f"fail-{step}").exists():
            raise ProviderError(f"planted failure of {step}")
