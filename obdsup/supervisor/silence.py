"""How long something has given no sign of life, and why: by what its threads do. Pure.

Time is counted in our own looks: the time between two of them counts at most ``STEP_MAX_S``.
"""

from __future__ import annotations

from dataclasses import dataclass

from obdsup.supervisor.thread_times import ThreadTimes

__all__ = ["Silence", "SilenceCause", "step_s"]

STEP_MAX_S = 0.5  # what the time between two looks counts at most
CPU_SHARE = 0.05  # of the time: more processor than any honest turn of an engine needs


def step_s(before_s: float, now_s: float) -> float:
    """How much the time from one look to the next counts."""
    return min(max(now_s - before_s, 0.0), STEP_MAX_S)


@dataclass(frozen=True, slots=True)
class SilenceCause:
    """Why: in words; whether the process only wants for a processor; whether it was stopped."""

    text: str
    is_starved: bool = False
    is_stopped: bool = False


@dataclass(frozen=True, slots=True)
class Silence:
    """``for_s`` of silence; ``threads`` as they were ``watched_s`` ago."""

    for_s: float = 0.0
    watched_s: float = 0.0
    threads: tuple[ThreadTimes, ...] = ()

    def wants_threads(self, limit_s: float) -> bool:
        """Whether the next look should be at the threads too: not before it begins to matter."""
        return self.for_s >= limit_s / 2

    def goes_on(self, step: float, threads: tuple[ThreadTimes, ...]) -> Silence:
        """The silence one look later."""
        if not self.threads:
            return Silence(self.for_s + step, 0.0, threads)
        return Silence(self.for_s + step, self.watched_s + step, self.threads)

    def cause(self, now: tuple[ThreadTimes, ...]) -> SilenceCause:
        """What the threads did since they were first looked at."""
        if now and all(thread.state in "Tt" for thread in now):
            return SilenceCause("the process is stopped", is_stopped=True)
        was = {thread.tid: thread for thread in self.threads}
        runnable = [new for new in now if new.state == "R" and new.tid in was]
        for new in runnable:
            if new.run_s - was[new.tid].run_s >= CPU_SHARE * self.watched_s:
                return SilenceCause(f"thread {new.tid} runs without end")
        if runnable:
            return SilenceCause("it gets no processor", is_starved=True)
        for new in now:
            if new.state == "D":
                return SilenceCause(f"thread {new.tid} waits in the kernel")
        return SilenceCause("its threads wait for each other" if len(now) > 1 else "it waits")


NO_SILENCE = Silence()
