"""One served device as the hang watch sees it: from journal, mailbox and /proc to a verdict.

Costs a few reads of memory files; asks no process anything and waits for none.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from obdsup.state.journal import ExecutingCommand, JournalCounters
from obdsup.supervisor.hang_judge import (
    DeviceMemory,
    DeviceView,
    ExecutingView,
    Judgement,
    Verdict,
    judge,
)
from obdsup.supervisor.journal_file import JournalFile
from obdsup.supervisor.provider.base import RingHandle
from obdsup.supervisor.ring_view import read_head
from obdsup.supervisor.silence import step_s
from obdsup.supervisor.thread_times import process_user_s, thread_times, threads_of

__all__ = ["Finding", "WatchedDevice"]

BURNS_SHARE = 0.02  # of the time: a process with less user time has no thread that turns in circles


@dataclass(frozen=True, slots=True)
class Finding:
    """What one look found. ``command``: the one it is about, if any."""

    judgement: Judgement
    command: ExecutingCommand | None = None
    foreign_resets: int = 0  # since the look before


class WatchedDevice:
    """Keeps what the next look is compared with. Used by one thread."""

    def __init__(self) -> None:
        self._memory: DeviceMemory | None = None
        self._user_s = 0.0
        self._foreign_resets: int | None = None

    @property
    def is_silent(self) -> bool:
        """Its heartbeat did not move at the last look although it had work."""
        return self._memory is not None and self._memory.silence.for_s > 0

    def is_due_within(self, time_s: float, limit_s: float) -> bool:
        """Whether its silence reaches the limit that soon, if it goes on; no more once it has."""
        silent_s = self._memory.silence.for_s if self._memory is not None else 0.0
        return bool(silent_s) and limit_s - time_s < silent_s < limit_s + time_s

    def look(
        self, pid: int, journal: JournalFile, ring: RingHandle, now_s: float, limit_s: float
    ) -> Finding:
        """One look at a device that process ``pid`` serves."""
        counters = journal.counters()
        resets = self._count_resets(counters)
        if counters.owner_pid != pid:  # it has let go, or has not taken it yet
            self._memory = None
            return Finding(Judgement(Verdict.IDLE), foreign_resets=resets)
        owner = pid, counters.owner_generation
        memory = self._memory
        if memory is not None and memory.owner != owner:
            memory = None
        commands = journal.executing() if counters.in_flight else []
        view = DeviceView(
            owner,
            counters.heartbeat_cnt,
            counters.in_flight,
            self._has_unpicked(memory, counters, journal, ring),
            self._executing(commands, pid, memory, now_s),
            threads_of(pid) if memory and memory.silence.wants_threads(limit_s) else (),
        )
        self._memory, judgement = judge(memory, view, now_s, limit_s)
        command = next((one for one in commands if one.slot == judgement.slot), None)
        if command is None and judgement.verdict.is_hung and commands:
            command = min(commands, key=lambda one: one.picked_up_ns)
        return Finding(judgement, command, resets)

    def _count_resets(self, counters: JournalCounters) -> int:
        before, self._foreign_resets = self._foreign_resets, counters.foreign_resets
        return 0 if before is None else max(counters.foreign_resets - before, 0)

    def _has_unpicked(
        self,
        memory: DeviceMemory | None,
        counters: JournalCounters,
        journal: JournalFile,
        ring: RingHandle,
    ) -> bool:
        """Only looked at while the heartbeat stands and nothing is in flight."""
        if memory is None or counters.in_flight or counters.heartbeat_cnt != memory.heartbeat:
            return False
        head = read_head(ring)
        return head is not None and head != journal.next_position()[1]

    def _executing(
        self,
        commands: list[ExecutingCommand],
        pid: int,
        memory: DeviceMemory | None,
        now_s: float,
    ) -> tuple[ExecutingView, ...]:
        """The threads are looked at only in a process that uses its processor."""
        if not commands:
            return ()
        views = [ExecutingView(one.slot, one.sequence) for one in commands]
        user_s = process_user_s(pid)
        step = step_s(memory.at_s, now_s) if memory is not None else 0.0
        is_burning, self._user_s = user_s - self._user_s >= BURNS_SHARE * step, user_s
        if not is_burning:
            return tuple(views)
        return tuple(
            replace(view, thread=thread_times(pid, one.tid))
            for view, one in zip(views, commands, strict=True)
        )
