"""Whether what serves a device moves: pure, from one view to the next.

A view is what the journal, the ring's mailbox and /proc say at one moment. Time is counted in our
own looks (``silence``): a supervisor that was stopped, starved or asleep with its host finds nobody
hung for the time that it did not look.

| what is seen | verdict |
|---|---|
| nothing to do | IDLE |
| the heartbeat moves | WORKING |
| the heartbeat moves, a command executes for the limit and its thread waits | SLOW |
| it executes for the limit and its thread runs all the while, in user mode | HUNG_THREAD |
| work is pending and the heartbeat does not move for the limit | HUNG_ENGINE |
| the same, but the process gets hardly any processor time | STARVED, for four limits |
| the control thread does not answer for the limit, and no device of it is silent | HUNG_CONTROL |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from obdsup.supervisor.silence import CPU_SHARE, NO_SILENCE, Silence, step_s
from obdsup.supervisor.thread_times import ThreadTimes

__all__ = [
    "ControlMemory",
    "ControlView",
    "DeviceMemory",
    "DeviceView",
    "ExecutingView",
    "Judgement",
    "Verdict",
    "judge",
    "judge_control",
]

STARVED_LIMITS = 4  # a starved process is killed as well, after so many limits
RUNS_SHARE = 0.6  # of the time: runnable; the kernel's clocks lag a little behind ours


class Verdict(Enum):
    """What is the matter with a device, or with a worker."""

    IDLE = "idle"
    WORKING = "working"
    SLOW = "slow"
    STARVED = "starved"
    HUNG_ENGINE = "hung engine"
    HUNG_THREAD = "hung thread"
    HUNG_CONTROL = "hung control"

    @property
    def is_hung(self) -> bool:
        """The worker has to be replaced."""
        return self in (Verdict.HUNG_ENGINE, Verdict.HUNG_THREAD, Verdict.HUNG_CONTROL)


@dataclass(frozen=True, slots=True)
class ExecutingView:
    """One command that a thread works on; ``thread`` None: not looked at, or not there."""

    slot: int
    sequence: int
    thread: ThreadTimes | None = None


@dataclass(frozen=True, slots=True)
class DeviceView:
    """One served device at one moment.

    ``owner``: pid and generation; another one starts everything over. ``has_unpicked``: the ring's
    head is not where the worker will pick up next. ``threads``: all of the process, looked at only
    once the device has been silent for a while (``Silence.wants_threads``).
    """

    owner: tuple[int, int]
    heartbeat: int
    in_flight: int
    has_unpicked: bool
    executing: tuple[ExecutingView, ...] = ()
    threads: tuple[ThreadTimes, ...] = ()

    @property
    def is_pending(self) -> bool:
        """There is something to do."""
        return self.in_flight > 0 or self.has_unpicked


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict and its grounds. ``is_from_outside``: no command has anything to do with it."""

    verdict: Verdict
    reason: str = ""
    age_s: float = 0.0  # how long it has been so, in our looks
    slot: int | None = None  # the command's
    is_from_outside: bool = False


@dataclass(frozen=True, slots=True)
class _Command:
    """One command that was executing at the last look."""

    age_s: float = 0.0
    runs_s: float = 0.0  # for so long its thread has been runnable at every look
    user_s: float = 0.0  # user time it had meanwhile
    thread: ThreadTimes | None = None


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """What the next look has to be compared with."""

    at_s: float
    owner: tuple[int, int]
    heartbeat: int
    was_pending: bool
    silence: Silence = NO_SILENCE
    commands: Mapping[tuple[int, int], _Command] = field(default_factory=dict)

    def has_seen(self, slot: int, sequence: int) -> bool:
        """Whether the command was executing at the last look: its thread is of interest."""
        return (slot, sequence) in self.commands


def judge(
    memory: DeviceMemory | None, view: DeviceView, now_s: float, limit_s: float
) -> tuple[DeviceMemory, Judgement]:
    """What the view says, and what to remember of it.

    Args:
        memory: of the look before; None at the first.
        view: this look.
        now_s: monotonic.
        limit_s: how long something may stand still.
    """
    if memory is not None and memory.owner != view.owner:
        memory = None
    step = step_s(memory.at_s, now_s) if memory is not None else 0.0
    silence = NO_SILENCE
    if (
        memory is not None
        and view.heartbeat == memory.heartbeat
        and view.is_pending
        and memory.was_pending
    ):
        silence = memory.silence.goes_on(step, view.threads)
    before = memory.commands if memory is not None else {}
    commands = {}
    for one in view.executing:
        key = (one.slot, one.sequence)
        commands[key] = _follow(before.get(key), one.thread, step)
    after = DeviceMemory(now_s, view.owner, view.heartbeat, view.is_pending, silence, commands)
    if silence.for_s >= limit_s and view.threads:
        return after, _judge_silence(silence, view.threads, limit_s, Verdict.HUNG_ENGINE)
    moving = Verdict.WORKING if view.is_pending else Verdict.IDLE
    return after, _judge_commands(commands, moving, limit_s)


def _follow(before: _Command | None, thread: ThreadTimes | None, step: float) -> _Command:
    """A command one look later."""
    if before is None:
        return _Command(thread=thread)
    age_s, last = before.age_s + step, before.thread
    if thread is None or thread.state != "R":
        return _Command(age_s, thread=thread)
    if last is None or last.tid != thread.tid:
        return _Command(age_s, step, 0.0, thread)  # its user time has to prove it yet
    runnable_s = thread.run_s - last.run_s + thread.wait_s - last.wait_s
    if runnable_s < RUNS_SHARE * step:
        return _Command(age_s, thread=thread)
    user_s = before.user_s + thread.user_s - last.user_s
    return _Command(age_s, before.runs_s + step, user_s, thread)


def _judge_commands(
    commands: Mapping[tuple[int, int], _Command], moving: Verdict, limit_s: float
) -> Judgement:
    oldest = Judgement(moving)
    for (slot, _), command in commands.items():
        if command.runs_s >= limit_s and command.user_s >= CPU_SHARE * limit_s:
            reason = "the thread of a command runs without end"
            return Judgement(Verdict.HUNG_THREAD, reason, command.runs_s, slot)
        if command.age_s >= limit_s and command.age_s > oldest.age_s:
            reason = "a command waits for its storage"
            oldest = Judgement(Verdict.SLOW, reason, command.age_s, slot)
    return oldest


def _judge_silence(
    silence: Silence, threads: tuple[ThreadTimes, ...], limit_s: float, verdict: Verdict
) -> Judgement:
    cause = silence.cause(threads)
    if cause.is_starved and silence.for_s < STARVED_LIMITS * limit_s:
        verdict = Verdict.STARVED
    return Judgement(verdict, cause.text, silence.for_s, is_from_outside=cause.is_stopped)


@dataclass(frozen=True, slots=True)
class ControlView:
    """The control thread of a worker at one moment.

    ``is_waited_for``: a question has no answer yet. ``is_device_silent``: the engine stands as
    well, which is then the verdict. ``threads``: the control thread, looked at as in DeviceView.
    """

    is_waited_for: bool
    is_device_silent: bool
    threads: tuple[ThreadTimes, ...] = ()


@dataclass(frozen=True, slots=True)
class ControlMemory:
    """What the next look has to be compared with."""

    at_s: float
    silence: Silence = NO_SILENCE


def judge_control(
    memory: ControlMemory | None, view: ControlView, now_s: float, limit_s: float
) -> tuple[ControlMemory, Judgement]:
    """As ``judge``, for the control thread; ``limit_s``: how long an answer may take."""
    if memory is None or not view.is_waited_for:
        return ControlMemory(now_s), Judgement(Verdict.WORKING)
    silence = memory.silence.goes_on(step_s(memory.at_s, now_s), view.threads)
    after = ControlMemory(now_s, silence)
    if silence.for_s < limit_s or view.is_device_silent or not view.threads:
        return after, Judgement(Verdict.WORKING)
    found = _judge_silence(silence, view.threads, limit_s, Verdict.HUNG_CONTROL)
    return after, replace(found, is_from_outside=True)
