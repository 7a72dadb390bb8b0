"""The control thread of one worker as the hang watch sees it: asked again and again, never waited
for.
"""

from __future__ import annotations

from obdsup.supervisor.control_ping import ControlPing
from obdsup.supervisor.hang_judge import ControlMemory, ControlView, Judgement, judge_control
from obdsup.supervisor.thread_times import ThreadTimes, thread_times

__all__ = ["WatchedWorker"]

ASKS_PER_LIMIT = 5  # so finely is the beginning of a silence known


class WatchedWorker:
    """Keeps the question that is under way. Used by one thread; ``close`` it.

    Args:
        pid: of the worker.
        path: of its control socket.
        begin_s: monotonic; when to ask first.
    """

    def __init__(self, pid: int, path: str, begin_s: float) -> None:
        self._pid = pid
        self._ping = ControlPing(path)
        self._memory: ControlMemory | None = None
        self._ask_at_s = begin_s

    def look(self, now_s: float, limit_s: float, *, is_device_silent: bool) -> Judgement:
        """One look. A worker is found hung once it has been asked a fifth of the limit less than
        the limit ago: its last sign of life is then the limit ago.
        """
        interval_s = limit_s / ASKS_PER_LIMIT
        self._ping.look()
        if now_s >= self._ask_at_s and not self._ping.is_waited_for:
            self._ping.ask()
            self._ask_at_s = now_s + interval_s
            self._memory = None  # silence begins now, with nobody to blame for the time before
        limit_s -= interval_s
        threads: tuple[ThreadTimes, ...] = ()
        if self._memory is not None and self._memory.silence.wants_threads(limit_s):
            control = thread_times(self._pid, self._pid)
            threads = (control,) if control is not None else ()
        view = ControlView(self._ping.is_waited_for, is_device_silent, threads)
        self._memory, judgement = judge_control(self._memory, view, now_s, limit_s)
        return judgement

    def close(self) -> None:
        """Closes the connection."""
        self._ping.close()
