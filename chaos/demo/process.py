"""Which process a pid means: pid and start time together, and signals that can not go astray."""

from __future__ import annotations

import os
import select
import signal
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Process", "processes_naming", "start_time"]


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None when it is dead or a zombie."""
    try:
        line = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = line.rpartition(")")[2].split()  # the name before it may hold anything
    return None if fields[0] in "ZX" else int(fields[19])


@dataclass(frozen=True, slots=True)
class Process:
    """One process for ever: a pid that was handed out again is another ``Process``."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """The process that has this pid now, or None."""
        started = start_time(pid) if pid > 0 else None
        return None if started is None else cls(pid, started)

    def is_alive(self) -> bool:
        return start_time(self.pid) == self.started

    def send(self, number: signal.Signals) -> bool:
        """Sends a signal to exactly this process; False when it was gone already."""
        try:
            fd = os.pidfd_open(self.pid)
        except OSError:
            return False
        try:
            # The pidfd holds the pid: what start_time sees from here on is what gets the signal.
            if not self.is_alive():
                return False
            signal.pidfd_send_signal(fd, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(fd)
        return True

    def wait_gone(self, timeout_s: float) -> bool:
        """Waits until it is dead (a zombie is dead); False when it outlived the time."""
        try:
            fd = os.pidfd_open(self.pid)
        except OSError:
            return True
        try:
            if not self.is_alive():
                return True
            return bool(select.select([fd], [], [], timeout_s)[0])
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
