"""The load of ringd's own front end as a workload: it runs as long as the device is there."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence

from chaos.rig.counters import DeviceJournal
from chaos.rig.latency import LatencySlice, Operation
from chaos.rig.node import Node, wait_until
from chaos.rig.problem import RigError
from chaos.stall.ring_gaps import RingGaps
from chaos.workloads.base import Findings

__all__ = ["RingLoad"]


class RingLoad:
    """See ``Workload``. The device exists already; ``verify`` reads everything back, removes it."""

    name = "ring load"

    def __init__(self, node: Node, device: str, journal: DeviceJournal) -> None:
        self._node = node
        self._device = device
        self._journal = journal
        self._gaps = RingGaps(node.run_dir / "rings" / f"{device}.sock")
        self._slices: list[LatencySlice] = []
        self._operations = 0

    def start(self) -> None:
        wait_until(
            lambda: self.operations() > 0,
            self._node.patience_s,
            f"first commands on {self._device}",
        )

    def operations(self) -> int:
        with contextlib.suppress(OSError):  # removed: what it was at the end
            self._operations = self._journal.read().completed
        return self._operations

    def slices(self) -> Sequence[LatencySlice]:
        """Only what was slow: each gap of a millisecond and more between two completions."""
        try:
            gaps = self._gaps.take()
        except OSError:
            gaps = []
        self._slices += [
            LatencySlice(end, 1, end - begin, Operation(begin, end)) for begin, end in gaps
        ]
        return self._slices

    def stop(self) -> None:
        self.slices()
        self.operations()

    def close(self) -> None:
        """Nothing is left of it but the device."""

    def verify(self) -> Findings:
        self._node.remove_device(self._device)
        path = self._node.run_dir / "rings" / f"{self._device}.json"
        try:
            report = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise RigError(f"the load's report {path}: {error}") from error
        found = Findings()
        for name in ("lost", "stale", "misplaced", "corrupt"):
            lines = [f"{self._device}: {name} sector (see {self._device}.log)"] * report.get(
                name, 0
            )
            getattr(found, name).extend(lines)
        found.io_errors += [f"{self._device}: a command failed"] * report.get("errors", 0)
        for name in ("broken", "unfinished"):
            if report.get(name):
                found.io_errors.append(f"{self._device}: {name}: {report[name]}")
        if not report.get("complete"):
            found.io_errors.append(f"{self._device}: reading back did not reach the end")
        return found
