"""What still reads of a damaged state.db. The file itself is not touched: a copy is opened.

Rows are taken one by one, from both ends of each table, and only those whose checksum says that
they are what was written.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from obdsup.state.checks import CHECKED, CRC_COLUMN, row_crc

__all__ = ["Salvage", "put_aside", "remove_files", "salvage"]

SUFFIXES = ("", "-wal")
KEPT_ASIDE = 5  # damaged databases


class Salvage:
    """An opened copy; None stands for one that can not be opened at all."""

    def __init__(self, connection: sqlite3.Connection | None) -> None:
        self._connection = connection

    def rows(self, table: str) -> list[dict[str, object]]:
        """The rows of a table that can be trusted; without checksums: those that can be read."""
        found: dict[int, dict[str, object]] = {}
        for order in ("ASC", "DESC"):
            for rowid, row in self._read(table, order):
                if table not in CHECKED or row.get(CRC_COLUMN) == row_crc(
                    list(row), list(row.values())
                ):
                    found[rowid] = row
        return list(found.values())

    def events(self) -> list[dict[str, object]]:
        """Those whose text is sound."""
        return [row for row in self.rows("events") if _is_json(row.get("fields"))]

    def _read(self, table: str, order: str) -> Iterator[tuple[int, dict[str, object]]]:
        if self._connection is None:
            return
        try:
            cursor = self._connection.execute(
                f"SELECT rowid, * FROM {table} NOT INDEXED ORDER BY rowid {order}"
            )
            names = [column[0] for column in cursor.description[1:]]
            for rowid, *values in cursor:
                yield rowid, dict(zip(names, values, strict=True))
        except (sqlite3.Error, UnicodeError):
            return


@contextmanager
def salvage(path: Path, scratch: Path) -> Iterator[Salvage]:
    """Copies a database with its log into a folder below ``scratch`` and opens the copy.

    Raises:
        OSError: there is no room for the folder.
    """
    with tempfile.TemporaryDirectory(dir=scratch, prefix="salvage-") as folder:
        connection = None
        try:
            for suffix in SUFFIXES:
                source = path.with_name(path.name + suffix)
                if source.is_file():
                    shutil.copyfile(source, Path(folder) / f"state.db{suffix}")
            connection = sqlite3.connect(Path(folder) / "state.db", isolation_level=None)
            connection.execute("PRAGMA cell_size_check=ON")
        except (OSError, sqlite3.Error, UnicodeError):
            pass  # nothing of it reads: the caller finds no rows
        try:
            yield Salvage(connection)
        finally:
            if connection is not None:
                connection.close()


def put_aside(path: Path) -> str:
    """Renames a database, with its log, to NAME.damaged-TIME; its path then, "" if it was gone.

    Raises:
        OSError: the folder can not be written.
    """
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    target = path.with_name(f"{path.name}.damaged-{stamp}")
    number = 1
    while target.exists():
        number += 1
        target = path.with_name(f"{path.name}.damaged-{stamp}-{number}")
    kept = ""
    for suffix in SUFFIXES:
        source = path.with_name(path.name + suffix)
        if source.exists():
            source.rename(target.with_name(target.name + suffix))
            kept = kept or str(target)
    path.with_name(f"{path.name}-shm").unlink(missing_ok=True)
    _drop_old(path)
    return kept


def remove_files(path: Path) -> None:
    """Removes a database that was begun, with what belongs to it.

    Raises:
        OSError: the folder can not be written.
    """
    for suffix in (*SUFFIXES, "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _drop_old(path: Path) -> None:
    mains = [p for p in path.parent.glob(f"{path.name}.damaged-*") if not p.name.endswith("-wal")]
    for old in sorted(mains, key=lambda p: p.stat().st_mtime)[:-KEPT_ASIDE]:
        old.unlink(missing_ok=True)
        old.with_name(f"{old.name}-wal").unlink(missing_ok=True)


def _is_json(text: object) -> bool:
    try:
        return isinstance(json.loads(str(text)), dict)
    except ValueError:
        return False
