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

from obdsup.supervisor.silence import NO_SILENCE, Silence, step_s
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
RUNNABLE_SHARE = 0.5  # of the time, of a thread that runs without end on a crowded machine
USER_SHARE = 0.05  # of the time, likewise; more than any honest command needs


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

    @property
    def hang_kind(self) -> str:
        """One word for what hangs: stopped, engine, thread or control."""
        is_stopped = self.is_from_outside and self.verdict is not Verdict.HUNG_CONTROL
        return "stopped" if is_stopped else self.verdict.value.removeprefix("hung ")


@dataclass(frozen=True, slots=True)
class _Command:
    """One command that was executing at the last look."""

    age_s: float = 0.0
    since: ThreadTimes | None = None  # since then its thread was runnable whenever looked at
    since_s: float = 0.0  # the age it had then
    thread: ThreadTimes | None = None  # at the last look, if it was looked at

    def runs(self) -> tuple[float, float, float]:
        """For how long it has been runnable; how much of that it ran or waited for a processor;
        how much it ran in user mode.
        """
        if self.since is None or self.thread is None:
            return 0.0, 0.0, 0.0
        then, now = self.since, self.thread
        runnable_s = now.run_s - then.run_s + now.wait_s - then.wait_s
        return self.age_s - self.since_s, runnable_s, now.user_s - then.user_s


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
        commands[key] = _follow(before.get(key), one.thread, step, limit_s)
    after = DeviceMemory(now_s, view.owner, view.heartbeat, view.is_pending, silence, commands)
    if silence.for_s >= limit_s and view.threads:
        return after, _judge_silence(silence, view.threads, limit_s, Verdict.HUNG_ENGINE)
    moving = Verdict.WORKING if view.is_pending else Verdict.IDLE
    return after, _judge_commands(commands, moving, limit_s)


def _follow(
    before: _Command | None, thread: ThreadTimes | None, step: float, limit_s: float
) -> _Command:
    """A command one look later."""
    if before is None:
        return _Command(0.0, _if_runnable(thread), 0.0, thread)
    age_s = before.age_s + step
    if thread is None:
        return replace(before, age_s=age_s, thread=None)
    if before.since is None or before.since.tid != thread.tid or thread.state != "R":
        begun_s = age_s if before.thread else before.age_s  # its times have to prove it yet
        return _Command(age_s, _if_runnable(thread), begun_s, thread)
    after = replace(before, age_s=age_s, thread=thread)
    if after.runs()[0] >= limit_s and not _is_endless(after, limit_s):
        return _Command(age_s, thread, age_s, thread)  # by chance: from now on, then
    return after


def _if_runnable(thread: ThreadTimes | None) -> ThreadTimes | None:
    return thread if thread is not None and thread.state == "R" else None


def _is_endless(command: _Command, limit_s: float) -> bool:
    """Whether its thread runs without end. The kernel tells of a wait when it is over: single
    looks prove nothing, the sum does.
    """
    runs_s, runnable_s, user_s = command.runs()
    return (
        runs_s >= limit_s
        and runnable_s >= RUNNABLE_SHARE * runs_s
        and user_s >= USER_SHARE * runs_s
    )


def _judge_commands(
    commands: Mapping[tuple[int, int], _Command], moving: Verdict, limit_s: float
) -> Judgement:
    oldest = Judgement(moving)
    for (slot, _), command in commands.items():
        if _is_endless(command, limit_s):
            reason = "the thread of a command runs without end"
            return Judgement(Verdict.HUNG_THREAD, reason, command.runs()[0], slot)
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
    reason = f"its control thread does not answer: {found.reason}"
    return after, replace(found, reason=reason, is_from_outside=True)
