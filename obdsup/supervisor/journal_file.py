"""The in-flight journal's file as the supervisor holds it: made, kept open, started over."""

from __future__ import annotations

import os
import threading
from dataclasses import fields
from pathlib import Path

from obdsup.errors import StateError
from obdsup.state.journal import ExecutingCommand, JournalCounters, JournalReader

__all__ = ["JournalFile"]

LAYOUT_VERSION_AT = (4, 8)  # bytes, offset: the same in every version
NO_COUNTERS = JournalCounters(*[0] * len(fields(JournalCounters)))


class JournalFile:
    """One journal's fd. The file is never replaced by another inode while the device lives: the
    lock that keeps a second server away is on the inode. Reading is safe from any thread, also
    after ``close``: it then gives zeros.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._reader = JournalReader(self.fd, str(path))
        self._lock = threading.Lock()  # nobody reads an fd that is being closed or reused
        self._is_closed = False

    def take(self, fd: int) -> None:
        """Uses the fd a living worker gave back instead of the one opened by path; owns it."""
        with self._lock:
            os.close(self.fd)
            self.fd = fd
            self._reader = JournalReader(fd, str(self.path))

    def generation(self) -> int:
        """Who may publish; 0 when the header can not be trusted."""
        with self._lock:
            try:
                self._reader.header()
            except StateError:
                return 0
            return self._reader.generation()

    def counters(self) -> JournalCounters:
        """All counters."""
        with self._lock:
            return NO_COUNTERS if self._is_closed else self._reader.counters()

    def next_position(self) -> tuple[int, int]:
        """(sequence, ring offset), zeros before the journal was made."""
        with self._lock:
            try:
                return (0, 0) if self._is_closed else self._reader.next_position()
            except StateError:
                return 0, 0

    def executing(self) -> list[ExecutingCommand]:
        """The commands a thread works on, in slot order; none when the file is damaged."""
        with self._lock:
            try:
                return [] if self._is_closed else self._reader.executing()
            except StateError:
                return []

    def start_over(self) -> None:
        """Empties a journal that can not be trusted. Only while nobody serves."""
        try:
            self._reader.header()
        except StateError:
            os.ftruncate(self.fd, 0)

    def layout_version(self) -> int:
        """Of the worker that made it, also one of a release that we know nothing of; 0: none yet.

        It says nothing of whether the rest can be trusted: the worker that opens it finds out.
        """
        with self._lock:
            raw = b"" if self._is_closed else os.pread(self.fd, *LAYOUT_VERSION_AT)
        return int.from_bytes(raw, "little")

    def close(self) -> None:
        """Closes the fd; the file stays."""
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                os.close(self.fd)

    def remove(self) -> None:
        """Removes the file and its folder, at the end of the device's life."""
        self.path.unlink(missing_ok=True)
        try:
            self.path.parent.rmdir()
        except OSError:
            return  # somebody keeps something there: theirs
