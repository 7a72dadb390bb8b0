"""The machine's wall clock, wrong for a while: for machines that are there for one run alone."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from chaos.rig.problem import RigError

__all__ = ["WallClock"]

NS = 1_000_000_000


class WallClock:
    """A context manager; leaving it, the clock is right again, as far as CLOCK_BOOTTIME knows."""

    def __init__(self) -> None:
        self._right_ns = 0
        self._at_ns = 0

    def __enter__(self) -> Self:
        """Remembers what time it is."""
        self._right_ns, self._at_ns = time.time_ns(), _steady_ns()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.jump(0)

    def now_s(self) -> float:
        """The right time, whatever the clock says."""
        return (self._right_ns + _steady_ns() - self._at_ns) / NS

    def jump(self, seconds: int) -> None:
        """Sets the clock so that it is wrong by this much.

        Raises:
            RigError: the kernel refuses (no privilege, or before 1970).
        """
        if seconds == 0 and abs(time.time() - self.now_s()) < 1e-3:
            return
        target_ns = self._right_ns + _steady_ns() - self._at_ns + seconds * NS
        try:
            time.clock_settime_ns(time.CLOCK_REALTIME, target_ns)
        except OSError as error:
            raise RigError(f"the clock can not be set by {seconds} s: {error}") from error


def _steady_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
