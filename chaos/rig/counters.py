"""The counters a device's journal keeps: read in place, without asking anyone."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from obdsup.state.journal import JournalReader

__all__ = ["Counters", "DeviceJournal"]


@dataclass(frozen=True, slots=True)
class Counters:
    """The counters the demo looks at, as they were at one moment; times are CLOCK_MONOTONIC."""

    owner_pid: int
    owner_generation: int
    first_publish_ns: int
    in_flight: int
    completed: int
    recovered: int
    already_done: int
    medium_errors: int


class DeviceJournal:
    """The journal file of one device below a run directory.

    Opened anew for each reading: a device whose ring was reset may have a new file.
    """

    def __init__(self, run_dir: Path, device: str) -> None:
        self._path = run_dir / "devices" / device / "inflight"

    def read(self) -> Counters:
        """The counters now.

        Raises:
            OSError: there is no journal.
        """
        fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            counters = JournalReader(fd, str(self._path)).counters()
            return Counters(
                owner_pid=counters.owner_pid,
                owner_generation=counters.owner_generation,
                first_publish_ns=counters.first_publish_ns,
                in_flight=counters.in_flight,
                completed=counters.completed,
                recovered=counters.recovered,
                already_done=counters.already_done,
                medium_errors=counters.medium_errors,
            )
        finally:
            os.close(fd)
