"""What the kernel says of one thread: its state, and the processor time it had and waited for."""

from __future__ import annotations

import os
from dataclasses import dataclass

__all__ = ["ThreadTimes", "process_user_s", "thread_times", "threads_of"]

_TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")
_READ_BYTES = 1024


@dataclass(frozen=True, slots=True)
class ThreadTimes:
    """Times since the thread began, in seconds.

    ``state`` is the letter of /proc: R runs or waits for a processor, S sleeps, D waits in the
    kernel whatever comes, T stopped, t held by a debugger. Without scheduler statistics in the
    kernel ``run_s`` is the user time and ``wait_s`` 0.
    """

    tid: int
    state: str
    user_s: float
    run_s: float
    wait_s: float


def thread_times(pid: int, tid: int) -> ThreadTimes | None:
    """The thread ``tid`` of process ``pid``; None when the process has no such thread."""
    folder = f"/proc/{pid}/task/{tid}"
    stat = _read(f"{folder}/stat")
    if stat is None:
        return None
    fields = stat[stat.rindex(b")") + 2 :].split(None, 12)
    user_s = int(fields[11]) * _TICK_S
    waited = (_read(f"{folder}/schedstat") or b"").split()
    if len(waited) < 2:
        return ThreadTimes(tid, fields[0].decode(), user_s, user_s, 0.0)
    return ThreadTimes(tid, fields[0].decode(), user_s, int(waited[0]) / 1e9, int(waited[1]) / 1e9)


def threads_of(pid: int) -> tuple[ThreadTimes, ...]:
    """All threads of a process; none when it is gone."""
    try:
        names = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return ()
    found = (thread_times(pid, int(name)) for name in names)
    return tuple(times for times in found if times is not None)


def process_user_s(pid: int) -> float:
    """User time of all threads of a process, ended ones too; 0 when it is gone."""
    stat = _read(f"/proc/{pid}/stat")
    return int(stat[stat.rindex(b")") + 2 :].split(None, 12)[11]) * _TICK_S if stat else 0.0


def _read(path: str) -> bytes | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(fd, _READ_BYTES) or None
    except OSError:
        return None  # the thread ended meanwhile
    finally:
        os.close(fd)
