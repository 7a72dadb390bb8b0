"""The file state.db: two connections, every check there is, whether somebody else touched it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from obdsup.state import checks
from obdsup.state.migrations import migrate

__all__ = ["Disk", "is_damage"]

Write = Callable[[sqlite3.Connection], object]
PRIMARY_CODE = 0xFF  # of SQLite's extended result codes
HEADER_BYTES = 100
PAGE_BYTES = 4096
# What each byte range of the header must be in a database of ours: (begin, allowed values).
HEADER = (
    (0, (b"SQLite format 3\0",)),
    (16, (PAGE_BYTES.to_bytes(2, "big"),)),
    (18, (b"\1\1", b"\2\2")),  # a higher version would be opened read-only, or not at all
    (20, (b"\0\x40\x20\x20",)),
    (56, (b"\0\0\0\0", b"\0\0\0\1")),  # UTF-8; 0 before the first table left the log
)
# The disk or the machine is to blame, not the content of the file.
ENVIRONMENT = frozenset(
    (
        sqlite3.SQLITE_PERM, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_NOLFS,
    )
)  # fmt: skip


def is_damage(error: BaseException) -> bool:
    """Whether an error of SQLite while opening or reading means that the content is damaged."""
    code = getattr(error, "sqlite_errorcode", None)
    if code == sqlite3.SQLITE_IOERR_SHORT_READ:
        return True
    return isinstance(error, sqlite3.DatabaseError) and (
        code is None or code & PRIMARY_CODE not in ENVIRONMENT
    )


class Disk:
    """The open file, of the present schema; belongs to one thread but for ``read``.

    Raises:
        StateError: of a newer release, or not of obdsup.
        sqlite3.Error: it is damaged (``is_damage``), or can not be opened.
        OSError: it can not be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        _check_header(path)
        with _readable_errors():
            self._writer = _connect(path)
        try:
            with _readable_errors():
                check_pages(self._writer)
                migrate(self._writer, str(path))
                self._reader = _connect(path)
        except BaseException:
            self._writer.close()
            raise
        self._seen = self._look()

    def transaction(self, writes: Sequence[Write]) -> list[object]:
        """Carries out all or none; their values once they are on disk.

        SQLite opens what it can not write read-only, and keeps it so: then it is opened anew.

        Raises:
            Exception: what a write raised; sqlite3.Error: it could not be written.
        """
        try:
            return self._attempt(writes)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & PRIMARY_CODE != sqlite3.SQLITE_READONLY:
                raise
        reopened = _connect(self.path)
        self._writer.close()
        self._writer = reopened
        return self._attempt(writes)

    def read(self, query: Callable[[sqlite3.Connection], object]) -> object:
        """Runs a query on what is committed; one at a time."""
        return query(self._reader)

    def is_touched(self) -> bool:
        """Whether a file is not as we left it: somebody else wrote, removed or replaced it."""
        return self._look() != self._seen

    def check(self) -> None:
        """Reads everything with a connection of its own, as the next supervisor would.

        What the log still holds is written to its place first: a damaged log is then no loss.

        Raises:
            sqlite3.Error: it is damaged (``is_damage``), or can not be read.
            OSError: it can not be read.
        """
        if {path.stat().st_ino for path in self._files()} != {seen[1] for seen in self._seen}:
            raise sqlite3.DatabaseError("it was replaced")
        size_bytes = self.path.stat().st_size
        if size_bytes < self._seen[0][2]:  # the log might hide it until it is gone
            raise sqlite3.DatabaseError(f"it was cut from {self._seen[0][2]} to {size_bytes} bytes")
        _check_header(self.path)
        self._writer.execute("PRAGMA busy_timeout=100")  # somebody may be reading
        self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._writer.execute("PRAGMA busy_timeout=10000")
        _check_header(self.path)
        with _readable_errors(), closing(_connect(self.path)) as fresh:
            check_pages(fresh)
            checks.verify(fresh)
        self._seen = self._look()

    def close(self) -> None:
        """Fine to call twice."""
        self._reader.close()
        self._writer.close()

    def _attempt(self, writes: Sequence[Write]) -> list[object]:
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            values = [write(self._writer) for write in writes]
            self._writer.execute("COMMIT")
        except BaseException:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            raise
        now = self._look()
        is_same = [seen[:2] for seen in now] == [seen[:2] for seen in self._seen]
        if is_same and now[0][2] >= self._seen[0][2]:
            self._seen = now  # else it stays touched: what was written went nowhere
        return values

    def _files(self) -> list[Path]:
        return [p for p in (self.path, self.path.with_name(f"{self.path.name}-wal")) if p.exists()]

    def _look(self) -> list[tuple[str, int, int, int]]:
        """Of each file: name, inode, size, time of the last change."""
        found = []
        for path in self._files():
            try:
                status = os.stat(path)
            except FileNotFoundError:
                continue
            found.append((path.name, status.st_ino, status.st_size, status.st_mtime_ns))
        return found


@contextmanager
def _readable_errors() -> Iterator[None]:
    """SQLite quotes a damaged schema in its messages, which Python then can not decode."""
    try:
        yield
    except UnicodeError as error:
        raise sqlite3.DatabaseError(f"its schema is damaged: {error}") from error


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
    try:
        # A damaged byte in a text is found by its row's checksum, not by the decoder.
        connection.text_factory = lambda raw: raw.decode(errors="replace")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA cell_size_check=ON")
    except BaseException:
        connection.close()
        raise
    return connection


def _check_header(path: Path) -> None:
    """What SQLite does not check, or answers with another error than that it is damaged.

    A part of a page would be read as a whole one: rows at its end would be gone in silence. While
    there is a log the file may end anywhere: a checkpoint may have been cut short.
    """
    try:
        with path.open("rb") as file:
            header = file.read(HEADER_BYTES)
            size_bytes = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        return
    if not header:
        return  # a new one
    for begin, allowed in HEADER:
        if not any(header[begin : begin + len(value)] == value for value in allowed):
            raise sqlite3.DatabaseError(f"its header is damaged at byte {begin}")
    log_path = path.with_name(f"{path.name}-wal")
    if log_path.exists() and log_path.stat().st_size:
        return
    if size_bytes % PAGE_BYTES:
        raise sqlite3.DatabaseError(f"it is cut short: {size_bytes} bytes are no whole pages")


def check_pages(connection: sqlite3.Connection) -> None:
    """Every page, once: else a device whose row is on a bad one would be forgotten in silence.

    Some 5 ms with all the events that are kept.
    """
    (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise sqlite3.DatabaseError(f"it is damaged: {found}")
