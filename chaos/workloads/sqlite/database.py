"""One database under load: its writer, what that acknowledged, and the checks."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from chaos.rig.problem import REPO
from chaos.workloads.recorder import Recorder
from chaos.workloads.sqlite.content import Content
from chaos.workloads.sqlite.writer import connect

__all__ = ["Database"]

SUFFIXES = ("", "-wal", "-journal")  # not -shm: it is memory that died with its process
END_TIMEOUT_S = 300.0


class Database:
    """A database file, its one writer process, and what is known to be in it.

    Attributes:
        acknowledged: the newest transaction whose COMMIT returned.
        begun: the newest that was begun: the database may end here too.
    """

    def __init__(
        self, path: Path, mode: str, salt: str, pause_s: float, recorder: Recorder
    ) -> None:
        self.acknowledged = 0
        self.begun = 0
        self._path = path
        self._mode = mode
        self._salt = salt
        self._content = Content(salt)
        self._pause_s = pause_s
        self._recorder = recorder
        self._writer: subprocess.Popen[bytes] | None = None
        self._read = b""
        self._is_paused = False

    def fileno(self) -> int:
        """For a selector: readable when the writer said something."""
        assert self._writer
        assert self._writer.stdout
        return self._writer.stdout.fileno()

    @property
    def is_writing(self) -> bool:
        return self._writer is not None

    def start_writer(self) -> None:
        """Starts a writer where the database ends."""
        module = "chaos.workloads.sqlite.writer"
        arguments = [str(self._path), self._mode, self._salt, str(self._pause_s)]
        self._writer = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=REPO,
        )
        self._read = b""
        self._is_paused = False

    def take_words(self) -> None:
        """Notes what the writer said; to be called when ``fileno`` is readable.

        Raises:
            OSError: the writer ended by itself; says what it could not do.
        """
        data = os.read(self.fileno(), 65536)
        self._read += data
        *lines, self._read = self._read.split(b"\n")
        failure = ""
        for line in lines:
            word, _, rest = line.decode().partition(" ")
            if word == "begin":
                self._note_begun(int(rest))
            elif word == "done":
                self.acknowledged, begun_ns, ended_ns = map(int, rest.split())
                self._recorder.operation(begun_ns, ended_ns)
            elif word == "paused":
                self._is_paused = True
            elif word == "failed":
                failure = rest
        if not data or failure:
            self._reap()
            raise OSError(f"{self._name}: the writer ended: {failure or 'without a word'}")

    def _note_begun(self, number: int) -> None:
        """A writer begins where the database ends: which says what a killed predecessor left."""
        if number <= self.acknowledged:
            self._found("lost", f"ended at {number - 1}, but {self.acknowledged} was acknowledged")
        elif number > self.begun + 1:
            self._found("corrupt", f"ended at {number - 1}, but only {self.begun} were begun")
        self.begun = number

    def end_writer(self) -> None:
        """Lets the writer end after the transaction it is in.

        Raises:
            OSError: it failed in that transaction.
        """
        if self._writer:
            assert self._writer.stdin
            self._writer.stdin.close()
            self._take_rest()

    def kill_writer(self) -> None:
        """SIGKILL, wherever it is; what it had said before is noted."""
        if self._writer:
            self._writer.kill()
            self._take_rest()

    def snapshot(self, folder: Path) -> None:
        """Copies the files as a power cut at this moment would have left them, and judges the copy.

        Only without a writer: the files would change between their copies.

        Raises:
            OSError: the files can not be read.
        """
        assert self._writer is None
        copy = folder / self._path.name
        for suffix in SUFFIXES:
            copy.with_name(copy.name + suffix).unlink(missing_ok=True)
            source = self._path.with_name(self._path.name + suffix)
            if source.exists():
                shutil.copyfile(source, copy.with_name(copy.name + suffix))
        self._judge(copy, "copy after SIGKILL")

    def check_beside_writer(self) -> None:
        """Reads the whole database while its writer has it open.

        With a rollback journal the writer waits meanwhile: it holds its lock nearly all the time,
        and a reader that asks for it now and then would hardly ever get it.

        Raises:
            OSError: it can not be read, or the writer ended.
        """
        if self._mode != "WAL":
            self._tell_writer("pause")
            while not self._is_paused:
                self.take_words()
        floor = self.acknowledged
        try:
            with self._connected(self._path) as connection:
                connection.execute("BEGIN")
                # What a writer said meanwhile is still in the pipe: it may be ahead of the floor.
                for kind, line in self._content.differences(connection, floor, sys.maxsize):
                    self._found(kind, line)
        finally:
            if self._is_paused:
                self._is_paused = False
                self._tell_writer("go")

    def _tell_writer(self, word: str) -> None:
        assert self._writer
        assert self._writer.stdin
        self._writer.stdin.write(f"{word}\n".encode())
        self._writer.stdin.flush()

    def verify(self) -> None:
        """Everything: integrity, and the prefix that was committed.

        Raises:
            OSError: it can not be read.
        """
        self._judge(self._path, "at the end")

    def _judge(self, path: Path, when: str) -> None:
        with self._connected(path) as connection:
            said = connection.execute("PRAGMA integrity_check").fetchall()
            if said != [("ok",)]:
                self._found("corrupt", f"{when}: integrity_check: {said[:3]}")
            differences = self._content.differences(connection, self.acknowledged, self.begun)
            for kind, line in differences:
                self._found(kind, f"{when}: {line}")

    @contextlib.contextmanager
    def _connected(self, path: Path) -> Iterator[sqlite3.Connection]:
        """A connection; a file that is no database is a finding, all else is an ``OSError``."""
        try:
            with contextlib.closing(connect(path, self._mode)) as connection:
                yield connection
        except sqlite3.OperationalError as error:
            raise OSError(f"{self._name}: {error}") from error
        except sqlite3.DatabaseError as error:
            self._found("corrupt", str(error))

    def _take_rest(self) -> None:
        try:
            while self._writer:
                self.take_words()
        except OSError as error:
            if "without a word" not in str(error):
                raise

    def _reap(self) -> None:
        writer, self._writer = self._writer, None
        if writer:
            assert writer.stdin
            assert writer.stdout
            with contextlib.suppress(BrokenPipeError):  # an order that it did not live to read
                writer.stdin.close()
            writer.stdout.close()
            writer.wait(END_TIMEOUT_S)

    @property
    def _name(self) -> str:
        return f"{self._path.name} ({self._mode})"

    def _found(self, kind: str, line: str) -> None:
        self._recorder.found(kind, f"sqlite: {self._name}: {line}")
