"""Checksums of rows: a byte that changed on the disk must not become another device's file.

SQLite notices a damaged page by its structure only; a changed byte within a value reads as well as
the right one. Rows that decide what is served carry a CRC-32 of all their other columns.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Sequence

__all__ = ["CHECKED", "next_revision", "revision_of", "row_crc", "seal", "seal_all", "verify"]

CHECKED = {  # table: its key
    "integrity": "id",
    "devices": "name",
    "workers": "id",
    "operations": "device",
    "meta": "key",
    "rollout": "id",
}
CRC_COLUMN = "crc"


def row_crc(names: Sequence[str], values: Sequence[object]) -> int:
    """The checksum of a row: of all columns but the checksum itself, by name."""
    pairs = sorted(pair for pair in zip(names, values, strict=True) if pair[0] != CRC_COLUMN)
    return zlib.crc32(json.dumps(pairs, default=repr).encode())


def seal(connection: sqlite3.Connection, table: str, key: object) -> None:
    """Gives a row that was just written its checksum; fine when there is no such row."""
    where = f"WHERE {CHECKED[table]} = ?"
    cursor = connection.execute(f"SELECT * FROM {table} {where}", (key,))
    row = cursor.fetchone()
    if row is not None:
        crc = row_crc([column[0] for column in cursor.description], row)
        connection.execute(f"UPDATE {table} SET {CRC_COLUMN} = ? {where}", (crc, key))


def seal_all(connection: sqlite3.Connection) -> None:
    """Gives every row its checksum: after columns were added."""
    for table, key in CHECKED.items():
        for (value,) in connection.execute(f"SELECT {key} FROM {table}").fetchall():
            seal(connection, table, value)


def verify(connection: sqlite3.Connection) -> None:
    """Compares all checksums.

    Raises:
        sqlite3.DatabaseError: a row is not what was written.
    """
    for table, key in CHECKED.items():
        cursor = connection.execute(f"SELECT * FROM {table}")
        names = [column[0] for column in cursor.description]
        for row in cursor:
            if row[names.index(CRC_COLUMN)] != row_crc(names, row):
                raise sqlite3.DatabaseError(
                    f"it is damaged: a row of {table} is not what was written"
                    f" ({key} {row[names.index(key)]!r})"
                )


def revision_of(connection: sqlite3.Connection) -> int:
    """How many changes of devices the database has seen: it holds all up to this one."""
    return int(connection.execute("SELECT revision FROM integrity").fetchone()[0])


def next_revision(connection: sqlite3.Connection) -> int:
    """The number of the change of a device that is being written."""
    connection.execute("UPDATE integrity SET revision = revision + 1")
    seal(connection, "integrity", 1)
    return revision_of(connection)
