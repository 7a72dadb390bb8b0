"""state.db: SQLite in WAL mode with synchronous=FULL, one writer thread, a total order of writes.

A write is a function over the connection. ``commit`` returns when it is on disk; ``later`` puts it
in the same queue and returns at once. Writes become durable in the order they were given, each
batch of queued ones in one transaction: a crash loses a suffix of the queue, never a middle. The
order of writes, the commit point and what each crash leaves are listed in DESIGN.md.
"""

from __future__ import annotations

import io
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from obdsup.errors import StateError
from obdsup.state.migrations import SCHEMA_VERSION, migrate

__all__ = ["SCHEMA_VERSION", "Database", "Write"]

Write = Callable[[sqlite3.Connection], object]
BATCH_MAX = 256
GATHER_S = 0.01  # what nobody waits for is written a moment later, when a take-over is over
PAGE_SIZE_BEGIN, PAGE_SIZE_END = 16, 18  # in the header of a database
PRIMARY_CODE = 0xFF  # of SQLite's extended result codes
log = logging.getLogger(__name__)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")
    return connection


def _check_size(path: Path) -> None:
    """SQLite reads a part of a page as a whole one: rows at its end would be gone in silence.

    While there is a log the file may end anywhere: a checkpoint may have been cut short.
    """
    log_path = path.with_name(f"{path.name}-wal")
    if log_path.exists() and log_path.stat().st_size:
        return
    size_bytes = path.stat().st_size if path.exists() else 0
    with path.open("rb") if size_bytes else io.BytesIO() as file:
        page_bytes = int.from_bytes(file.read(PAGE_SIZE_END)[PAGE_SIZE_BEGIN:], "big")
    if page_bytes > 1 and size_bytes % page_bytes:  # 1 stands for 65536, which we never use
        raise sqlite3.DatabaseError(f"it is cut short: {size_bytes} bytes are no whole pages")


def _check(connection: sqlite3.Connection) -> None:
    """Every page, once: else a device whose row is on a bad one would be forgotten in silence.

    Some 5 ms with all the events that are kept.
    """
    (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise sqlite3.DatabaseError(f"it is damaged: {found}")


class Database:
    """The open database; one per supervisor, under its lock. ``close`` waits for queued writes.

    Raises:
        StateError: not a database, damaged, or of a newer release.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._queue: queue.SimpleQueue[tuple[Write, Future[object] | None] | None]
        self._queue = queue.SimpleQueue()
        try:
            _check_size(path)
            self._writer = _connect(path)
            _check(self._writer)
            migrate(self._writer, str(path))
            self._reader = _connect(path)
        except sqlite3.DatabaseError as error:
            raise self._unusable(error) from error
        self._reader_lock = threading.Lock()
        self._failure: str = ""
        self._thread = threading.Thread(target=self._run, name="state-writer", daemon=True)
        self._thread.start()

    def commit(self, write: Write) -> object:
        """Carries out a write and returns its value once it is on disk.

        Raises:
            StateError: it could not be made durable; nothing of it is.
        """
        done: Future[object] = Future()
        self._queue.put((write, done))
        return done.result()

    def later(self, write: Write) -> None:
        """Queues a write behind all earlier ones; failures are logged and seen in ``failure``."""
        self._queue.put((write, None))

    def read(self, query: Callable[[sqlite3.Connection], object]) -> object:
        """Runs a query on what is committed (not on what is queued).

        Raises:
            StateError: it can not be read.
        """
        try:
            with self._reader_lock:
                return query(self._reader)
        except sqlite3.DatabaseError as error:
            raise self._unusable(error) from error

    def flush(self) -> None:
        """Returns when everything queued so far is on disk."""
        self.commit(lambda connection: None)

    @property
    def failure(self) -> str:
        """Why the last write failed, "" when it did not."""
        return self._failure

    def close(self) -> None:
        """Writes what is queued and closes; fine to call twice."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()
            self._reader.close()
            self._writer.close()

    def _unusable(self, error: sqlite3.Error) -> StateError:
        return StateError(
            f"{self.path} can not be used: {error}",
            hint="move it away to start empty; devices that are up are then unknown",
            path=str(self.path),
        )

    def _run(self) -> None:
        while True:
            batch = [self._queue.get()]
            if batch[0] is not None and batch[0][1] is None:
                time.sleep(GATHER_S)
            while batch[-1] is not None and len(batch) < BATCH_MAX:
                try:
                    batch.append(self._queue.get_nowait())
                except queue.Empty:
                    break
            self._write([item for item in batch if item is not None])
            if batch[-1] is None:
                return

    def _write(self, batch: list[tuple[Write, Future[object] | None]]) -> None:
        """One transaction for the batch; when it fails, one each: only the bad one fails."""
        if not batch:
            return
        try:
            values = self._transaction([write for write, _ in batch])
        except Exception as error:  # noqa: BLE001 - given to whoever waits, or logged
            if len(batch) > 1:
                for item in batch:
                    self._write([item])
                return
            self._fail(batch[0][1], error)
            return
        self._failure = ""
        for (_, done), value in zip(batch, values, strict=True):
            if done is not None:
                done.set_result(value)

    def _transaction(self, writes: list[Write]) -> list[object]:
        """SQLite opens what it can not write read-only, and keeps it so: then it is opened anew."""
        try:
            return self._attempt(writes)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & PRIMARY_CODE != sqlite3.SQLITE_READONLY:
                raise
        reopened = _connect(self.path)
        self._writer.close()
        self._writer = reopened
        return self._attempt(writes)

    def _attempt(self, writes: list[Write]) -> list[object]:
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            values = [write(self._writer) for write in writes]
            self._writer.execute("COMMIT")
        except BaseException:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            raise
        return values

    def _fail(self, done: Future[object] | None, error: Exception) -> None:
        self._failure = str(error)
        if done is None:
            log.error("state.lost path=%s reason=%s", self.path, error)
            return
        if isinstance(error, sqlite3.Error):
            wrapped = StateError(f"{self.path} could not be written: {error}", path=str(self.path))
            wrapped.__cause__ = error
            done.set_exception(wrapped)
        else:
            done.set_exception(error)
