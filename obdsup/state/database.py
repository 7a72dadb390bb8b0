"""state.db: SQLite in WAL mode with synchronous=FULL, one writer thread, a total order of writes.

A write is a function over a connection. ``commit`` returns when it is on disk; ``later`` puts it
in the same queue and returns at once. Writes become durable in the order they were given, each
batch of queued ones in one transaction: a crash loses a suffix of the queue, never a middle. The
order of writes, the commit point and what each crash leaves are listed in DESIGN.md.

The file may be full, read-only, damaged or gone, at the start or at any time later. All rows are in
memory too (mirror): ``later`` never loses one, a damaged file is put aside and made anew, and what
could not be written is written as soon as that is possible.
"""

from __future__ import annotations

import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from obdsup.errors import StateError
from obdsup.state import tables
from obdsup.state.disk import Disk, Write, is_damage
from obdsup.state.migrations import SCHEMA_VERSION
from obdsup.state.mirror import Mirror
from obdsup.state.rebuilt import Rebuilt, merge_copies, read_what_is_left, refill
from obdsup.state.row_copies import RowCopies
from obdsup.state.salvage import put_aside, remove_files

__all__ = ["SCHEMA_VERSION", "Database", "Write"]

BATCH_MAX = 256
GATHER_S = 0.01  # what nobody waits for is written a moment later, when a take-over is over
LOOK_S = 1.0  # how often the file is looked at when nothing is written
CHECK_S = 30.0  # how often all of it is read
log = logging.getLogger(__name__)
_Item = tuple[Write, "Future[object] | None"]


class Database:
    """The open database; one per supervisor, under its lock. ``close`` waits for queued writes.

    Args:
        path: of the file.
        copies: where each device's row is kept once more; with them a damaged, missing or
            unwritable file is no reason not to start. None: it is opened or refused.

    Raises:
        StateError: of a newer release, or not of obdsup; without ``copies`` also: it is damaged or
            can not be opened.
    """

    def __init__(self, path: Path, copies: RowCopies | None = None) -> None:
        self.path = path
        self.turned_s = time.monotonic()  # when the writer last went round
        # Called in the writer's thread when the file was made anew; must not block.
        self.on_rebuilt: Callable[[Rebuilt], None] = lambda rebuilt: None
        self.last_rebuilt: Rebuilt | None = None
        # Whether the rows are of the boot that runs, by what is in the file or beside the journals:
        # a fact lost from the file must not make devices in use look like those of an earlier boot.
        self.is_same_boot = True
        self._copies = copies
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._lock = threading.Lock()  # of the mirror and of the disk's reader
        self._mirror = Mirror()
        self._disk: Disk | None = None
        self._failure = ""
        self._untold: Rebuilt | None = None  # one that could not be ended yet
        self._is_behind = False  # rows in memory are not on disk
        self._is_suspect = False  # a read found damage
        self._next_attempt_s = self._next_check_s = 0.0
        self._copied_revision = 0
        self._copied_names: set[str] = set()
        self._open()
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
        """Queues a write behind all earlier ones; while the file can not be written it is kept."""
        self._queue.put((write, None))

    def read(self, query: Callable[[sqlite3.Connection], object]) -> object:
        """Runs a query on what is committed (not on what is queued).

        While the file can not be read the answer comes from memory, with the newest events only.
        """
        with self._lock:
            if self._disk is not None and not self._is_behind:
                try:
                    return self._disk.read(query)
                except sqlite3.DatabaseError as error:
                    if self._copies is None:
                        raise self._unusable(error) from error
                    self._is_suspect = True
            return self._mirror.read(query)

    def note_found(self, source: str, name: str) -> None:
        """A row that neither the file nor a copy had, and that was made anew from elsewhere."""
        with self._lock:
            if self.last_rebuilt is None:
                self.last_rebuilt = Rebuilt("it did not know all devices that live")
            self.last_rebuilt.add(source, [name])

    def flush(self) -> None:
        """Returns when everything queued so far is on disk.

        Raises:
            StateError: it can not be written.
        """
        self.commit(lambda connection: None)

    @property
    def failure(self) -> str:
        """Why the last write failed, "" when all that was given is on disk."""
        return self._failure

    def close(self) -> None:
        """Writes what is queued and closes; fine to call twice."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()
            if self._disk is not None:
                self._disk.close()

    # -- opening -----------------------------------------------------------------------------------
    def _open(self) -> None:
        self._next_check_s = time.monotonic() + CHECK_S
        copies, reason, is_damaged = self._copies, "", True
        try:
            if copies is not None and not self.path.exists() and copies.load():
                reason = "it is missing"
            else:
                self._disk = Disk(self.path)
                self._disk.read(self._mirror.fill)
        except (sqlite3.Error, OSError) as error:
            if copies is None:
                raise self._unusable(error) from error
            reason, is_damaged = str(error), is_damage(error)
        if copies is None:
            return
        rebuilt = Rebuilt(reason)
        if reason:
            read_what_is_left(self.path, copies, self._mirror, rebuilt)
        before = {copy.name: copy.revision for copy in copies.load()}
        merge_copies(copies, self._mirror, rebuilt)
        self._copied_revision = self._mirror.revision
        self._copied_names = self._mirror.device_names()
        known = self._mirror.read(tables.meta)
        assert isinstance(known, dict)
        known_boot = known.get("boot_id", copies.boot_id)
        self.is_same_boot = bool(before) or known_boot == copies.boot_id
        if self.is_same_boot:
            self._copy_all(before)
        if reason and is_damaged:
            self._replace_file(rebuilt)
        elif reason:
            self._fell_behind(reason)
        elif rebuilt.devices:
            self._is_behind, self.last_rebuilt = True, rebuilt

    def _copy_all(self, before: dict[str, int]) -> None:
        """Copies what has no copy of its revision; removes copies of what is no more."""
        assert self._copies is not None
        for copy in self._mirror.devices_after(-1):
            if before.pop(copy.name, None) != copy.revision:
                self._copies.put(copy)
        for name in before:
            self._copies.remove(name)

    def _unusable(self, error: Exception) -> StateError:
        return StateError(
            f"{self.path} can not be used: {error}",
            hint="move it away to start empty; devices that are up are then unknown",
            path=str(self.path),
        )

    # -- the writer's thread -----------------------------------------------------------------------
    def _run(self) -> None:
        while True:
            self.turned_s = time.monotonic()
            batch: list[_Item | None] = []
            try:
                batch.append(self._queue.get(timeout=LOOK_S))
            except queue.Empty:
                self._guarded([])
                continue
            if batch[0] is not None and batch[0][1] is None:
                time.sleep(GATHER_S)
            while batch[-1] is not None and len(batch) < BATCH_MAX:
                try:
                    batch.append(self._queue.get_nowait())
                except queue.Empty:
                    break
            self._guarded([item for item in batch if item is not None])
            if batch[-1] is None:
                return

    def _guarded(self, batch: list[_Item]) -> None:
        """A bug here must not end the thread: commits would wait for ever."""
        try:
            self._look_after_file()
            self._write(batch)
        except Exception as error:
            log.exception("state.failed")
            for _, done in batch:
                if done is not None and not done.done():
                    done.set_exception(error)

    def _write(self, batch: list[_Item]) -> None:
        if not batch:
            self._catch_up(is_urgent=False)
        elif self._catch_up(is_urgent=any(done is not None for _, done in batch)):
            self._write_all(batch)
        else:
            self._write_each(batch)

    def _write_all(self, batch: list[_Item]) -> None:
        """One transaction for the batch; when it fails, one each: only the bad one fails."""
        assert self._disk is not None
        try:
            values = self._disk.transaction([write for write, _ in batch])
        except Exception as error:  # noqa: BLE001 - given to whoever waits, or logged
            if is_damage(error) and not _is_of_write(error) and self._rebuild(str(error)):
                self._write_each(batch)
            else:
                self._write_each(batch, error if len(batch) == 1 else None)
            return
        for write, _ in batch:
            self._note(write, is_on_disk=True)
        self._copy_rows()
        self._failure = ""
        for (_, done), value in zip(batch, values, strict=True):
            if done is not None:
                done.set_result(value)

    def _write_each(self, batch: list[_Item], known: Exception | None = None) -> None:
        """One transaction each; what nobody waits for is kept when the file can not be written.

        Args:
            batch: the writes.
            known: what the only write of the batch has failed with already.
        """
        for write, done in batch:
            if done is None and self._is_behind:
                self._note(write, is_on_disk=False)
                self._copy_rows()
                continue
            try:
                if known is not None:
                    raise known
                if self._disk is None:
                    raise sqlite3.OperationalError(self._failure)
                value = self._disk.transaction([write])
            except Exception as error:  # noqa: BLE001 - given to whoever waits, or logged
                self._refused(write, done, error)
                continue
            self._note(write, is_on_disk=True)
            self._copy_rows()
            if not self._is_behind:
                self._failure = ""
            if done is not None:
                done.set_result(value[0])

    def _refused(self, write: Write, done: Future[object] | None, error: Exception) -> None:
        is_environment = isinstance(error, sqlite3.Error) and not is_damage(error)
        if done is None and (is_environment or not _is_of_write(error)):
            self._note(write, is_on_disk=False)
            self._copy_rows()
            self._fell_behind(str(error))
            return
        self._failure = str(error)
        if done is None:
            log.error("state.lost path=%s reason=%s", self.path, error)
        elif isinstance(error, sqlite3.Error):
            wrapped = StateError(f"{self.path} could not be written: {error}", path=str(self.path))
            wrapped.__cause__ = error
            done.set_exception(wrapped)
        else:
            done.set_exception(error)

    def _note(self, write: Write, *, is_on_disk: bool) -> None:
        """Carries out a write in memory."""
        try:
            with self._lock:
                self._mirror.apply(write)
        except Exception as error:
            if is_on_disk:
                log.exception("state.mirror_failed")
            else:
                log.error("state.lost path=%s reason=%s", self.path, error)

    def _copy_rows(self) -> None:
        """Brings the copies beside the journals up to date; before whoever waits is answered."""
        if self._copies is None:
            return
        with self._lock:
            revision = self._mirror.revision
            if revision == self._copied_revision:
                return
            changed = self._mirror.devices_after(self._copied_revision)
            names = self._mirror.device_names()
        for copy in changed:
            self._copies.put(copy)
        for name in self._copied_names - names:
            self._copies.remove(name)
        self._copied_revision, self._copied_names = revision, names

    # -- a file that can not be written, or is damaged ---------------------------------------------
    def _fell_behind(self, reason: str) -> None:
        if not self._is_behind:
            log.error("state.behind path=%s reason=%s", self.path, reason)
        self._is_behind, self._failure = True, reason

    def _catch_up(self, *, is_urgent: bool) -> bool:
        """Writes what is only in memory, if anything; False: it still can not be written."""
        if not self._is_behind:
            return self._disk is not None
        now = time.monotonic()
        if now < self._next_attempt_s and not is_urgent:
            return False
        self._next_attempt_s = now + LOOK_S
        try:
            if self._disk is None:
                with self._lock:
                    self._disk = Disk(self.path)
            self._disk.transaction([self._mirror.write_into])
        except (sqlite3.Error, StateError, OSError) as error:
            if is_damage(error):
                return self._rebuild(str(error))
            self._failure = str(error)
            return False
        with self._lock:
            self._is_behind = False
        log.warning("state.caught_up path=%s", self.path)
        self._failure = ""
        if self._untold is not None:
            self._tell(self._untold)
        return True

    def _look_after_file(self) -> None:
        """Looks whether somebody else touched the file; now and then reads all of it."""
        if self._copies is None or self._disk is None or self._is_behind:
            return
        now = time.monotonic()
        if not self._is_suspect and now < self._next_check_s and not self._disk.is_touched():
            return
        is_touched = self._disk.is_touched()
        self._is_suspect, self._next_check_s = False, now + CHECK_S
        try:
            self._disk.check()
            if is_touched:
                log.warning("state.touched path=%s: by somebody else; it is sound", self.path)
        except (sqlite3.Error, OSError) as error:
            if is_damage(error) or isinstance(error, FileNotFoundError):
                self._rebuild(str(error))
            else:
                self._is_suspect = True  # looked at again

    def _rebuild(self, reason: str) -> bool:
        """Puts a damaged file aside and makes a new one from memory; False: not now."""
        if self._copies is None:
            return False
        with self._lock:
            if self._disk is not None:
                self._disk.close()
                self._disk = None
            devices = sorted(self._mirror.device_names())
        return self._replace_file(Rebuilt(reason, devices, source="memory"))

    def _replace_file(self, rebuilt: Rebuilt) -> bool:
        assert self._copies is not None
        try:
            rebuilt.kept = put_aside(self.path)
            disk = self._new_file()
            refill(disk, rebuilt, self._copies)
        except (sqlite3.Error, StateError, OSError) as error:
            self._fell_behind(f"{rebuilt.reason}; a new one can not be made: {error}")
            self._untold = rebuilt
            return False
        with self._lock:
            self._disk, self._is_behind = disk, False
        self._failure = ""
        self._tell(rebuilt)
        return True

    def _tell(self, rebuilt: Rebuilt) -> None:
        self.last_rebuilt, self._untold = rebuilt, None
        self.on_rebuilt(rebuilt)

    def _new_file(self) -> Disk:
        """From memory; all of it or nothing."""
        disk: Disk | None = None
        try:
            disk = Disk(self.path)
            disk.transaction([self._mirror.write_into])
        except BaseException:
            if disk is not None:
                disk.close()
            remove_files(self.path)
            raise
        return disk


def _is_of_write(error: Exception) -> bool:
    """A statement that is wrong in itself, or that breaks a constraint: not the file's fault."""
    code = getattr(error, "sqlite_errorcode", None)
    return not isinstance(error, sqlite3.Error) or code in (
        None, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_RANGE,
        sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_MISUSE,
    ) or code & 0xFF == sqlite3.SQLITE_CONSTRAINT  # fmt: skip
