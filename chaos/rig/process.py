"""Which process a pid means: pid and start time together, and signals that can not go astray."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from obdsup.state.process import ProcessIdentity, has_exited, identify, open_pidfd

__all__ = ["Process", "processes_naming"]


@dataclass(frozen=True, slots=True)
class Process:
    """One process for ever: a pid that was handed out again is another ``Process``."""

    identity: ProcessIdentity

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """The process that has this pid now; None for none or a zombie."""
        identity = identify(pid)
        return None if identity is None else cls(identity)

    @property
    def pid(self) -> int:
        return self.identity.pid

    def is_alive(self) -> bool:
        return identify(self.pid) == self.identity

    def is_stopped(self) -> bool:
        """Whether every thread of it is stopped or gone: they are, one after the other."""
        tasks = Path("/proc", str(self.pid), "task").glob("*/stat")
        try:
            return all(path.read_text().rpartition(")")[2].split()[0] in "TZX" for path in tasks)
        except (FileNotFoundError, ProcessLookupError):
            return False  # a thread that has just ended; ask again

    def send(self, number: signal.Signals) -> bool:
        """Sends a signal to exactly this process; False when it was gone already."""
        with self.held() as send:
            return send(number)

    @contextlib.contextmanager
    def held(self) -> Iterator[Callable[[signal.Signals], bool]]:
        """Gives a ``send`` that has looked everything up already: one system call per signal."""
        fd = open_pidfd(self.identity)

        def send(number: signal.Signals) -> bool:
            try:
                if fd is not None:
                    signal.pidfd_send_signal(fd, number)
                return fd is not None
            except ProcessLookupError:
                return False

        try:
            yield send
        finally:
            if fd is not None:
                os.close(fd)

    def wait_gone(self, timeout_s: float) -> bool:
        """Waits until it is dead (a zombie is dead); False when it outlived the time."""
        fd = open_pidfd(self.identity)
        if fd is None:
            return True
        try:
            return has_exited(fd, timeout_s)
        finally:
            os.close(fd)


def processes_naming(path: Path) -> list[Process]:
    """The processes with an argument below a path: how a run finds what it started.

    The path must belong to one run alone; the calling process itself is left out.
    """
    wanted = os.fsencode(path)
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if any(a == wanted or a.startswith(wanted + b"/") for a in arguments):
            process = Process.of(int(entry.name))
            if process:
                found.append(process)
    return found
