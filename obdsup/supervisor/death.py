"""How a worker died, and whether what it was executing may be to blame. Pure."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from enum import Enum

__all__ = ["Cause", "Death", "Hang", "judge_death"]


class Cause(Enum):
    """Why a worker is no more."""

    EXITED = "exited"  # by itself, status 0
    CRASHED = "crashed"  # a signal of its own making, or an exit status that is not 0
    KILLED = "killed"  # SIGKILL or SIGTERM from outside, also ours
    OOM = "oom"  # the kernel, for memory
    HUNG = "hung"  # we killed it because it did not move
    UNKNOWN = "unknown"  # adopted: its status went to the supervisor that started it


_BLAMED = frozenset({Cause.CRASHED, Cause.OOM})
_FROM_OUTSIDE = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP})


@dataclass(frozen=True, slots=True)
class Hang:
    """Why we killed a worker that did not move."""

    kind: str  # engine, thread, control, stopped, dropped
    is_blamed: bool  # what it was executing may have caused it


@dataclass(frozen=True, slots=True)
class Death:
    """One death. ``exit_status`` is negative for a signal, None when it is not known."""

    cause: Cause
    exit_status: int | None
    hang: Hang | None = None  # of HUNG

    @property
    def is_blamed(self) -> bool:
        """A command that was executing may have caused it: a kill from outside says nothing, nor
        does a hang that no command can cause."""
        return self.hang.is_blamed if self.hang is not None else self.cause in _BLAMED

    def __str__(self) -> str:
        if self.hang is not None:
            return f"{self.cause.value} ({self.hang.kind})"
        if self.exit_status is None or self.exit_status == 0:
            return self.cause.value
        if self.exit_status > 0:
            return f"{self.cause.value} (exit status {self.exit_status})"
        try:
            name = signal.Signals(-self.exit_status).name
        except ValueError:
            name = f"signal {-self.exit_status}"
        return f"{self.cause.value} ({name})"


def judge_death(exit_status: int | None, *, hang: Hang | None = None, is_oom: bool) -> Death:
    """What a death was.

    Args:
        exit_status: as waitstatus_to_exitcode gives it; None when somebody else was told.
        hang: what we killed it for, if we did.
        is_oom: the kernel's count of out-of-memory kills of its cgroup grew.
    """
    if hang is not None:
        return Death(Cause.HUNG, exit_status, hang)
    if is_oom:
        cause = Cause.OOM
    elif exit_status is None:
        cause = Cause.UNKNOWN
    elif exit_status == 0:
        cause = Cause.EXITED
    elif -exit_status in _FROM_OUTSIDE:
        cause = Cause.KILLED
    else:
        cause = Cause.CRASHED
    return Death(cause, exit_status)
