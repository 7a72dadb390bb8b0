"""What a device did before it moved to another release and what it does since: pure.

Told from the counters of its journal, which cost a pread and outlive every worker, and from whether
its ring has work. Two means, neither of which needs a clock on any command: the latency, commands
in flight summed over time by commands completed (Little's law); and the time per command, time with
work to do by commands completed. The first sees what takes long once begun, the second also what
waits to be picked up.
"""

from __future__ import annotations

from dataclasses import dataclass

from obdsup.state.journal import JournalCounters

__all__ = ["Meter", "Summary", "judge"]

COMMANDS_MIN = 50  # fewer say nothing about a mean
SECONDS_MIN = 1.0  # nor does a moment: on a busy host everything stops for 20 ms now and then
SLOWER_FACTOR = 4.0  # a release may be slower, a host may be busier
SLOWER_FLOOR_MS = 10.0  # and nobody rolls back for less
REFUSED_FREE = 16  # a host that probes a device asks for what no release knows
STUCK_AFTER_S = 10.0  # the hang watch acts before; a slow lower may be to blame, or the release


@dataclass(frozen=True, slots=True)
class Summary:
    """One stretch of time of one device."""

    seconds: float = 0.0
    completed: int = 0
    in_flight_s: float = 0.0  # commands in flight, summed over time
    working_s: float = 0.0  # with something in flight or in the ring
    medium_errors: int = 0
    refused: int = 0
    stuck_s: float = 0.0  # how long something has been in flight and nothing was completed

    @property
    def means_ms(self) -> dict[str, float]:
        """Each mean by what it is of; none: too few commands, or too short a time, to tell."""
        if self.completed < COMMANDS_MIN or self.seconds < SECONDS_MIN:
            return {}
        return {
            "latency": self.in_flight_s / self.completed * 1000,
            "time per command": self.working_s / self.completed * 1000,
        }

    def share(self, count: int) -> float:
        """A count by commands completed."""
        return count / max(self.completed, 1)


class Meter:
    """Adds up samples of one device; a journal that was started over begins at nothing."""

    def __init__(self) -> None:
        self._last: tuple[float, JournalCounters] | None = None
        self.summary = Summary()

    def add(self, now: float, counters: JournalCounters, *, has_work: bool) -> None:
        """One more sample.

        Args:
            now: monotonic seconds.
            counters: of the journal.
            has_work: something is in flight, or in the ring and not picked up.
        """
        last, self._last = self._last, (now, counters)
        if last is None or counters.completed < last[1].completed:
            return
        passed_s, before, so_far = now - last[0], last[1], self.summary
        completed = counters.completed - before.completed
        is_stuck = counters.in_flight > 0 and before.in_flight > 0 and not completed
        self.summary = Summary(
            so_far.seconds + passed_s,
            so_far.completed + completed,
            so_far.in_flight_s + passed_s * (before.in_flight + counters.in_flight) / 2,
            so_far.working_s + (passed_s if has_work else 0.0),
            so_far.medium_errors + counters.medium_errors - before.medium_errors,
            so_far.refused + counters.refused_cmds - before.refused_cmds,
            so_far.stuck_s + passed_s if is_stuck else 0.0,
        )


def judge(before: Summary, since: Summary) -> str:
    """Why the device does worse than before; "" when it does not."""
    if since.medium_errors and since.share(since.medium_errors) > 2 * before.share(
        before.medium_errors
    ):
        return f"{since.medium_errors} commands ended in a medium error"
    excess = since.refused - REFUSED_FREE
    if excess > 0 and since.share(excess) > 2 * before.share(before.refused):
        return f"{since.refused} commands were refused"
    if since.stuck_s >= STUCK_AFTER_S:
        return f"commands are in flight and none was completed for {since.stuck_s:.1f} s"
    means_before = before.means_ms
    for what, new_ms in since.means_ms.items():
        old_ms = means_before.get(what, new_ms)
        if new_ms > SLOWER_FACTOR * old_ms and new_ms > old_ms + SLOWER_FLOOR_MS:
            return f"the mean {what} went from {old_ms:.3f} ms to {new_ms:.3f} ms"
    return ""
