"""The process that writes one database, and is killed: ``python -m … PATH MODE SALT PAUSE_S``.

Before each transaction it prints ``begin N``, after it ``done N BEGUN_NS ENDED_NS``. It goes on
where the database ends, whatever a killed predecessor left: SQLite's own recovery decides. The line
``pause`` makes it print ``paused`` and wait for another line; it ends at the end of its input.
"""

from __future__ import annotations

import select
import sqlite3
import sys
import time
from pathlib import Path

from chaos.workloads.sqlite.content import SCHEMA, Content

__all__ = ["MODES", "connect"]

# Journal mode -> how much of a commit is synced: EXTRA also syncs the directory after the journal's
# removal, which a rollback journal needs to be durable; FULL syncs the WAL at each commit.
MODES = {"DELETE": "EXTRA", "WAL": "FULL"}
WAL_PAGES = 200  # checkpoints are frequent: both files are written all the time


def connect(path: Path, mode: str, timeout_s: float = 60.0) -> sqlite3.Connection:
    """A connection without implicit transactions, with the durability of this journal mode.

    Raises:
        sqlite3.Error: the database can not be opened.
    """
    connection = sqlite3.connect(path, timeout=timeout_s, isolation_level=None)
    try:
        connection.execute(f"PRAGMA journal_mode = {mode}")
        connection.execute(f"PRAGMA synchronous = {MODES[mode]}")
        connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES}")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def write(path: Path, mode: str, content: Content, pause_s: float) -> None:
    """Commits transaction after transaction until the end of input."""
    connection = connect(path, mode)
    is_new = not connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall()
    if is_new:
        connection.executescript(f"BEGIN;{SCHEMA}COMMIT;")
    number = int(connection.execute("SELECT n FROM counter").fetchone()[0])
    while _may_go_on(pause_s):
        number += 1
        print(f"begin {number}", flush=True)
        begun_ns = time.monotonic_ns()
        connection.execute("BEGIN IMMEDIATE")
        content.apply(connection, number)
        connection.execute("COMMIT")
        print(f"done {number} {begun_ns} {time.monotonic_ns()}", flush=True)
    connection.close()


def _may_go_on(pause_s: float) -> bool:
    if not select.select([sys.stdin], [], [], pause_s)[0]:
        return True
    if not sys.stdin.readline():
        return False
    print("paused", flush=True)
    return bool(sys.stdin.readline())


if __name__ == "__main__":
    try:
        write(Path(sys.argv[1]), sys.argv[2], Content(sys.argv[3]), float(sys.argv[4]))
    except (sqlite3.Error, OSError) as error:
        print(f"failed {type(error).__name__}: {error}", flush=True)
        sys.exit(1)
