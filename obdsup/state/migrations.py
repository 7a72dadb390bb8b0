"""The schema of state.db and the steps between its versions.

Columns and tables are only added. A database of a newer release is refused by name; an older one
is brought forward in one transaction.
"""

from __future__ import annotations

import sqlite3

from obdsup.errors import StateError
from obdsup.state import checks

__all__ = ["SCHEMA_VERSION", "check_version", "migrate"]

FIRST_WITH_CHECKS = 3
VERSION_MAX = 9999
MAGIC = 0x4F424453  # "OBDS", SQLite's application_id
SCHEMA_VERSION = 3

_VERSION_1 = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE devices (
    name TEXT PRIMARY KEY, uuid TEXT NOT NULL UNIQUE, image TEXT NOT NULL, lowers TEXT NOT NULL,
    writable INTEGER NOT NULL, upper_data TEXT, upper_index TEXT, size_bytes INTEGER NOT NULL,
    provider TEXT NOT NULL, provider_ids TEXT NOT NULL, block_device TEXT NOT NULL,
    phase TEXT NOT NULL, generation INTEGER NOT NULL, worker_id TEXT NOT NULL,
    reason TEXT NOT NULL, takeovers INTEGER NOT NULL, last_takeover TEXT, created REAL NOT NULL
) STRICT;
CREATE TABLE workers (
    id TEXT PRIMARY KEY, pid INTEGER NOT NULL, start_time INTEGER NOT NULL, socket TEXT NOT NULL
) STRICT;
CREATE TABLE operations (
    device TEXT PRIMARY KEY, kind TEXT NOT NULL, step TEXT NOT NULL, started REAL NOT NULL
) STRICT;
CREATE TABLE events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, ts REAL NOT NULL, name TEXT NOT NULL,
    device TEXT NOT NULL, fields TEXT NOT NULL
) STRICT;
CREATE TABLE checkpoints (
    device TEXT PRIMARY KEY, ts REAL NOT NULL, generation INTEGER NOT NULL,
    next_sequence INTEGER NOT NULL, next_offset INTEGER NOT NULL, counters TEXT NOT NULL
) STRICT;
"""

# ``options``: DeviceOptions as JSON. ``release``: path of the release its workers come from, ""
# for the supervisor's own. ``quarantine``: why it is not tried any more, "" when it is.
# ``rollout``: at most one row, kept until the next one is begun; ``moved`` is a JSON list of names.
_VERSION_2 = """
ALTER TABLE devices ADD COLUMN options TEXT NOT NULL DEFAULT '{}';
ALTER TABLE devices ADD COLUMN release TEXT NOT NULL DEFAULT '';
ALTER TABLE devices ADD COLUMN quarantine TEXT NOT NULL DEFAULT '';
CREATE TABLE rollout (
    id INTEGER PRIMARY KEY CHECK (id = 1), target TEXT NOT NULL, origin TEXT NOT NULL,
    state TEXT NOT NULL, options TEXT NOT NULL, moved TEXT NOT NULL, reason TEXT NOT NULL,
    started REAL NOT NULL, changed REAL NOT NULL
) STRICT;
"""

# ``crc``: see checks. ``revision`` of a device: the change of any device that wrote its row; of the
# database: the last one. ``schema_version`` tells a newer database from a damaged header.
_VERSION_3 = """
ALTER TABLE devices ADD COLUMN revision INTEGER NOT NULL DEFAULT 0;
ALTER TABLE devices ADD COLUMN crc INTEGER NOT NULL DEFAULT 0;
ALTER TABLE workers ADD COLUMN crc INTEGER NOT NULL DEFAULT 0;
ALTER TABLE operations ADD COLUMN crc INTEGER NOT NULL DEFAULT 0;
ALTER TABLE meta ADD COLUMN crc INTEGER NOT NULL DEFAULT 0;
ALTER TABLE rollout ADD COLUMN crc INTEGER NOT NULL DEFAULT 0;
CREATE TABLE integrity (
    id INTEGER PRIMARY KEY CHECK (id = 1), schema_version INTEGER NOT NULL,
    revision INTEGER NOT NULL, crc INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO integrity (id, schema_version, revision) VALUES (1, 3, 0);
"""

# _STEPS[n] brings a database of version n to n + 1.
_STEPS: tuple[str, ...] = (_VERSION_1, _VERSION_2, _VERSION_3)


def check_version(connection: sqlite3.Connection, path: str) -> int:
    """The version of a database that this release can use; reads only.

    Raises:
        StateError: a newer version, or somebody else's database.
    """
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    magic = int(connection.execute("PRAGMA application_id").fetchone()[0])
    tables = int(connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])
    if magic != MAGIC and (magic or version or tables):
        raise StateError(
            f"{path} is a database, but not one of obdsup: application_id {magic:#x}, "
            f"expected {MAGIC:#x}",
            path=path,
        )
    if version > SCHEMA_VERSION:
        raise StateError(
            f"{path} has schema version {version}, this release knows up to {SCHEMA_VERSION}",
            hint="start the release that wrote it, or a newer one",
            path=path,
            expected=SCHEMA_VERSION,
            got=version,
        )
    return version


def migrate(connection: sqlite3.Connection, path: str) -> None:
    """Brings an empty or older database to SCHEMA_VERSION, in one transaction.

    Raises:
        StateError: a newer version, or somebody else's database.
        sqlite3.DatabaseError: its header or a row is damaged.
    """
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    magic = int(connection.execute("PRAGMA application_id").fetchone()[0])
    names = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
    if magic != MAGIC and (magic or version or names):
        if {"devices", "workers", "meta"} <= names:
            raise sqlite3.DatabaseError(f"its header is damaged: application_id {magic:#x}")
        raise StateError(
            f"{path} is a database, but not one of obdsup: application_id {magic:#x}, "
            f"expected {MAGIC:#x}",
            path=path,
        )
    _check_version(connection, path, version, names)
    if version < SCHEMA_VERSION:
        script = "".join(_STEPS[version:])
        connection.executescript(f"BEGIN IMMEDIATE;{script}")
        try:
            checks.seal_all(connection)
            connection.execute(f"PRAGMA application_id={MAGIC}")
            connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise


def _check_version(
    connection: sqlite3.Connection, path: str, version: int, names: set[str]
) -> None:
    """A version that no release will have, or an older one than a row says, is a damaged header."""
    said = version
    if "integrity" in names:
        said = int(connection.execute("SELECT schema_version FROM integrity").fetchone()[0])
    if not said <= version <= VERSION_MAX:
        raise sqlite3.DatabaseError(f"its header is damaged: version {version}, a row says {said}")
    if version > SCHEMA_VERSION:
        raise StateError(
            f"{path} has schema version {version}, this release knows up to {SCHEMA_VERSION}",
            hint="start the release that wrote it, or a newer one",
            path=path,
            expected=SCHEMA_VERSION,
            got=version,
        )
    if version >= FIRST_WITH_CHECKS:
        checks.verify(connection)
