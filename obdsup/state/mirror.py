"""All rows of state.db in memory, with the newest events: what the file is made anew from.

Every write that succeeded, or that will be tried again, is carried out here too. So a file that
could not be written for a while catches up in one transaction, however much was missed, and a
damaged one is replaced without asking anybody.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable

from obdsup.state.checks import CHECKED, revision_of, seal
from obdsup.state.migrations import migrate
from obdsup.state.row_copies import RowCopy

__all__ = ["Mirror", "copy_rows"]

EVENTS_IN_MEMORY = 1000
ROW_TABLES = (*CHECKED, "checkpoints")


class Mirror:
    """A database in memory, of the present schema."""

    def __init__(self) -> None:
        self._memory = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        migrate(self._memory, "memory")
        self._memory.execute(
            "CREATE TEMP TRIGGER newest AFTER INSERT ON main.events BEGIN "
            f"DELETE FROM events WHERE seq <= NEW.seq - {EVENTS_IN_MEMORY}; END"
        )

    def fill(self, disk: sqlite3.Connection) -> None:
        """Takes everything that a sound database holds."""
        self._memory.execute("BEGIN")
        for table in ROW_TABLES:
            self._memory.execute(f"DELETE FROM {table}")
            copy_rows(disk, self._memory, table)
        copy_rows(disk, self._memory, f"events ORDER BY seq DESC LIMIT {EVENTS_IN_MEMORY}")
        self._memory.execute("COMMIT")

    def put_rows(self, table: str, rows: Iterable[dict[str, object]]) -> None:
        """Takes rows that were found elsewhere, by column; unknown columns are left out."""
        names = {row[1] for row in self._memory.execute(f"PRAGMA table_info({table})")}
        for row in rows:
            values = {name: value for name, value in row.items() if name in names}
            self._memory.execute(
                f"INSERT OR REPLACE INTO {table} ({', '.join(values)}) "
                f"VALUES ({', '.join('?' * len(values))})",
                list(values.values()),
            )
            if table in CHECKED:
                seal(self._memory, table, row[CHECKED[table]])

    def apply(self, write: Callable[[sqlite3.Connection], object]) -> None:
        """Carries out one write, whole or not at all.

        Raises:
            Exception: what the write raises.
        """
        self._memory.execute("BEGIN")
        try:
            write(self._memory)
        except BaseException:
            self._memory.execute("ROLLBACK")
            raise
        self._memory.execute("COMMIT")

    def read(self, query: Callable[[sqlite3.Connection], object]) -> object:
        """Runs a query; of events it knows the newest EVENTS_IN_MEMORY."""
        return query(self._memory)

    def write_into(self, disk: sqlite3.Connection) -> None:
        """Makes the rows of a database those in here, and adds the events it does not have.

        A write in the sense of ``database``: to be carried out in a transaction.
        """
        for table in ROW_TABLES:
            disk.execute(f"DELETE FROM {table}")
            copy_rows(self._memory, disk, table)
        (newest,) = disk.execute("SELECT coalesce(max(seq), 0) FROM events").fetchone()
        copy_rows(self._memory, disk, f"events WHERE seq > {int(newest)}")

    def raise_revision(self, revision: int) -> None:
        """The next change of a device gets a greater number than this one."""
        self._memory.execute("UPDATE integrity SET revision = max(revision, ?)", (revision,))
        seal(self._memory, "integrity", 1)

    @property
    def revision(self) -> int:
        """The last change of a device; see migrations."""
        return revision_of(self._memory)

    def device_names(self) -> set[str]:
        """Of all devices."""
        return {row[0] for row in self._memory.execute("SELECT name FROM devices")}

    def devices_after(self, revision: int) -> list[RowCopy]:
        """The devices that were changed since."""
        cursor = self._memory.execute("SELECT * FROM devices WHERE revision > ?", (revision,))
        names = [column[0] for column in cursor.description]
        rows = [dict(zip(names, row, strict=True)) for row in cursor]
        return [RowCopy(str(row["name"]), int(str(row["revision"])), row) for row in rows]


def copy_rows(source: sqlite3.Connection, target: sqlite3.Connection, selection: str) -> None:
    """Copies rows of a table, given as "TABLE [condition]", into the table of that name."""
    cursor = source.execute(f"SELECT * FROM {selection}")
    names = ", ".join(column[0] for column in cursor.description)
    marks = ", ".join("?" * len(cursor.description))
    table = selection.split()[0]
    target.executemany(f"INSERT OR REPLACE INTO {table} ({names}) VALUES ({marks})", cursor)
