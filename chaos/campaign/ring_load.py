"""The load of ringd's own front end as a workload: it runs as long as the device is there."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from typing import Any

from chaos.rig.counters import DeviceJournal
from chaos.rig.latency import LatencySlice
from chaos.rig.node import Node, wait_until
from chaos.rig.problem import RigError
from chaos.workloads.base import Findings
from chaos.workloads.recorder import LatencyFile

__all__ = ["RingLoad"]

# kinds of the report, and the list of Findings each belongs to
KINDS = {
    "errors": "io_errors",
    "lost": "lost",
    "stale": "stale",
    "misplaced": "misplaced",
    "corrupt": "corrupt",
}


class RingLoad:
    """See ``Workload``. The device exists already; ``verify`` reads everything back, removes it."""

    name = "ring load"

    def __init__(self, node: Node, device: str, journal: DeviceJournal) -> None:
        self._node = node
        self._device = device
        self._journal = journal
        self._rings = node.run_dir / "rings"
        self._latency = LatencyFile(self._rings / f"{device}.latency")
        self._operations = 0

    def write_options(self, load: str) -> None:
        """Says what the load is to be; before the device is created."""
        journal = self._node.run_dir / "devices" / self._device / "inflight"
        files = f"--latency {self._rings / self._device}.latency --journal {journal}"
        (self._rings / f"{self._device}.options").write_text(f"{load} {files}")

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
        return self._latency.slices()

    def stop(self) -> None:
        """The load goes on until ``verify``; what was measured until now is kept."""
        self.operations()

    def close(self) -> None:
        """Nothing is left of it but the device."""

    def verify(self) -> Findings:
        self._node.remove_device(self._device)
        path = self._rings / f"{self._device}.json"
        try:
            report = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise RigError(f"the load's report {path}: {error}") from error
        return _findings(self._device, report)


def _findings(device: str, report: dict[str, Any]) -> Findings:
    """Every wrong sector and failed command as a line; the first ones of a kind say more."""
    found = Findings()
    said: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for row in report.get("findings", []):
        said.setdefault(row["kind"], []).append(f"{device}: {row['text']}")
    for kind, name in KINDS.items():
        lines = said[kind][: report[kind]]
        lines += [f"{device}: {kind}, not told in detail"] * (report[kind] - len(lines))
        getattr(found, name).extend(lines)
    for name in ("broken", "unfinished"):
        if report[name]:
            found.io_errors.append(f"{device}: {name}: {report[name]}")
    if not report["complete"]:
        found.io_errors.append(f"{device}: reading back did not reach the end")
    return found
