"""The contract of a workload: what a campaign does with each of them, and what it finds out.

A workload checks while it runs and once more at the end; it counts nothing as fine that it did not
verify. It never stops by itself on a finding: later findings tell more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from chaos.rig.latency import LatencySlice

__all__ = ["Findings", "Workload"]


@dataclass(slots=True)
class Findings:
    """What should not have been, one line each: where, what was expected, what was found.

    ``lost``: acknowledged and gone. ``stale``: older than acknowledged. ``misplaced``: data of
    another place or device. ``corrupt``: nothing that was ever written; also a file system check or
    a database's own check that failed. ``io_errors``: an operation that failed.
    """

    io_errors: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    misplaced: list[str] = field(default_factory=list)
    corrupt: list[str] = field(default_factory=list)
    container_restarts: int = 0

    def add(self, other: Findings) -> None:
        """Takes over what another workload found."""
        for name in ("io_errors", "lost", "stale", "misplaced", "corrupt"):
            getattr(self, name).extend(getattr(other, name))
        self.container_restarts += other.container_restarts

    @property
    def is_clean(self) -> bool:
        lines = self.io_errors or self.lost or self.stale or self.misplaced or self.corrupt
        return not lines and not self.container_restarts


class Workload(Protocol):
    """One workload on one device; ``start``, ``stop``, ``verify``, ``close`` in that order.

    A run that fails or is interrupted leaves steps out, but never ``close``.
    """

    name: str

    def start(self) -> None:
        """Sets up and begins; returns when the first operation was answered.

        Raises:
            RigError: it could not be started.
        """

    def operations(self) -> int:
        """Checked operations so far; may be called from any thread at any time."""

    def slices(self) -> Sequence[LatencySlice]:
        """Latency so far, in order of time (CLOCK_MONOTONIC); may be called while it runs."""

    def stop(self) -> None:
        """Ends the load after the operations that are under way. Fine to call again.

        Raises:
            RigError: an operation does not end: its I/O hangs.
        """

    def verify(self) -> Findings:
        """Reads everything back, checks file systems, and returns all that was found, ever.

        Raises:
            RigError: the check itself could not be carried out.
        """

    def close(self) -> None:
        """Ends its processes and takes away its mounts, in whatever state it is. Fine to repeat.

        Raises:
            RigError: something is left behind: it hangs or stays busy.
        """
