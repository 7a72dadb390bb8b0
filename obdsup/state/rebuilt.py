"""How state.db was made anew: from what still reads of it, and from the copies of its rows."""

from __future__ import annotations

import logging
import sqlite3
import time
from dataclasses import dataclass, field
from pathlib import Path

from obdsup.state.disk import Disk
from obdsup.state.mirror import EVENTS_IN_MEMORY, ROW_TABLES, Mirror
from obdsup.state.row_copies import RowCopies
from obdsup.state.salvage import salvage

__all__ = ["Rebuilt", "merge_copies", "read_what_is_left", "refill"]

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Rebuilt:
    """What happened to state.db, for the operator."""

    reason: str  # "": it was sound, but behind the copies
    devices: list[str] = field(default_factory=list)  # whose rows were found
    source: str = ""  # where they came from
    kept: str = ""  # path of the damaged file
    at: float = field(default_factory=time.time)  # Unix time, seconds

    def add(self, source: str, names: list[str]) -> None:
        """Notes where rows came from."""
        if names:
            self.devices = sorted({*self.devices, *names})
            if source not in self.source.split(", "):
                self.source = ", ".join(part for part in (self.source, source) if part)


def read_what_is_left(path: Path, copies: RowCopies, mirror: Mirror, rebuilt: Rebuilt) -> None:
    """Fills the mirror with the rows of a file that are proven to be what was written."""
    try:
        with salvage(path, copies.scratch) as found:
            for table in ROW_TABLES:
                rows = found.rows(table)
                mirror.put_rows(
                    table, [row for row in rows if table != "integrity" or row["id"] == 1]
                )
                if table == "devices":
                    rebuilt.add("state.db", [str(row["name"]) for row in rows])
            mirror.put_rows("events", found.events()[-EVENTS_IN_MEMORY:])
    except OSError as error:
        log.warning("state.not_salvaged path=%s reason=%s", path, error)


def merge_copies(copies: RowCopies, mirror: Mirror, rebuilt: Rebuilt) -> None:
    """Takes the rows that are newer in their copies, or that only the copies have.

    A copy outlives its row only when the supervisor died between the two: such a device is drained,
    and is removed once more.
    """
    found = copies.load()
    known = {copy.name: copy.revision for copy in mirror.devices_after(-1)}
    taken = [copy for copy in found if copy.revision > known.get(copy.name, -1)]
    mirror.put_rows("devices", [copy.columns for copy in taken])
    mirror.raise_revision(max((copy.revision for copy in mirror.devices_after(-1)), default=0))
    rebuilt.add("copies beside the journals", [copy.name for copy in taken])


def refill(disk: Disk, rebuilt: Rebuilt, copies: RowCopies) -> None:
    """Adds the events of the file that was put aside which memory does not hold. Best effort."""
    if not rebuilt.kept:
        return
    try:
        with salvage(Path(rebuilt.kept), copies.scratch) as found:
            rows = found.events()
        disk.transaction([lambda connection: _insert_events(connection, rows)])
    except (sqlite3.Error, OSError) as error:
        log.warning("state.events_lost reason=%s", error)


def _insert_events(connection: sqlite3.Connection, rows: list[dict[str, object]]) -> None:
    (oldest,) = connection.execute("SELECT coalesce(min(seq), 1 << 62) FROM events").fetchone()
    connection.executemany(
        "INSERT OR IGNORE INTO events (seq, ts, name, device, fields) VALUES (?, ?, ?, ?, ?)",
        [
            (row["seq"], row["ts"], row["name"], row["device"], row["fields"])
            for row in rows
            if isinstance(row["seq"], int) and 0 < row["seq"] < oldest
        ],
    )
