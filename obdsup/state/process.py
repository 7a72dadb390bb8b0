"""Which process a pid means: pid + start time, and a pidfd that can not be reused.

A pid alone is reused by the kernel; ``/proc/PID/stat`` field 22 (start time in clock ticks since
boot) tells two users of one pid apart within a boot.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from obdsup.errors import StateError

__all__ = [
    "ProcessIdentity",
    "boot_id",
    "command_lines",
    "has_exited",
    "identify",
    "kill",
    "open_pidfd",
]


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One process of one boot; ``start_time`` is in clock ticks since boot."""

    pid: int
    start_time: int


def boot_id() -> str:
    """The kernel's boot id, as text with hyphens; changes with every boot of the host."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def identify(pid: int) -> ProcessIdentity | None:
    """Identity of the process that has this pid now; None when there is none or only a zombie."""
    if pid <= 0:
        return None
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rsplit(")", 1)[-1].split()
    if len(fields) < 20:
        raise StateError(f"/proc/{pid}/stat is not what it must be", pid=pid)
    return None if fields[0] in "ZXx" else ProcessIdentity(pid, int(fields[19]))


def command_lines() -> Iterator[tuple[int, list[bytes]]]:
    """Every process that runs, by what it was started with; this one is left out."""
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                raw = Path(entry.path, "cmdline").read_bytes()
            except OSError:
                continue
            yield int(entry.name), raw.split(b"\0")


def open_pidfd(identity: ProcessIdentity) -> int | None:
    """A pidfd (close-on-exec, owned by the caller) of exactly this process; None when it is gone.

    The start time is read after the pidfd was opened: if it matches then, the fd can not mean
    another process. A zombie counts as gone.
    """
    try:
        fd = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return None
    if identify(identity.pid) != identity:
        os.close(fd)
        return None
    return fd


def has_exited(pidfd: int, timeout_s: float = 0.0) -> bool:
    """Whether the process has ended: no thread of it runs, its files and mappings are released.

    A pidfd becomes readable when the last thread of the group has passed exit_files and exit_mm;
    after that no store or system call of the process is possible.
    """
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(timeout_s * 1000))


def kill(pidfd: int, timeout_s: float) -> bool:
    """SIGKILL and wait; True when the process is proven dead within the bound."""
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        return True
    return has_exited(pidfd, timeout_s)
