"""Hang or not: pure judgements over views, with time that jumps, stands and crawls."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obdsup.supervisor.hang_judge import (
    ControlMemory,
    ControlView,
    DeviceMemory,
    DeviceView,
    ExecutingView,
    Judgement,
    Verdict,
    judge,
    judge_control,
)
from obdsup.supervisor.silence import STEP_MAX_S
from obdsup.supervisor.thread_times import ThreadTimes

LIMIT_S = 5.0
LOOK_S = 0.25
OWNER = (100, 1)
PENDING = DeviceView(OWNER, heartbeat=7, in_flight=3, has_unpicked=False)
SLEEPS = (ThreadTimes(100, "S", 1.0, 1.0, 0.0), ThreadTimes(101, "S", 1.0, 1.0, 0.0))


class Watch:
    """Looks and remembers, as the hang watch does."""

    def __init__(self, limit_s: float = LIMIT_S) -> None:
        self.limit_s = limit_s
        self.now_s = 1000.0
        self.memory: DeviceMemory | None = None
        self.threads: tuple[ThreadTimes, ...] = SLEEPS

    def look(self, view: DeviceView, after_s: float = LOOK_S) -> Judgement:
        self.now_s += after_s
        if self.memory is not None and self.memory.silence.wants_threads(self.limit_s):
            view = replace(view, threads=self.threads)
        self.memory, judgement = judge(self.memory, view, self.now_s, self.limit_s)
        return judgement

    def until_other(self, view: DeviceView, verdict: Verdict, looks: int = 1000) -> Judgement:
        for _ in range(looks):
            judgement = self.look(view)
            if judgement.verdict is not verdict:
                return judgement
        raise AssertionError(f"still {verdict}")


def running(times: Iterable[float], share: float, *, state: str = "R") -> list[ThreadTimes]:
    """A thread that runs for a share of the time and waits for a processor the rest of it."""
    return [ThreadTimes(101, state, t * share, t * share, t * (1 - share)) for t in times]


@pytest.mark.parametrize("limit_s", [0.5, 1.0, 5.0, 12.3])
def test_work_pending_and_no_heartbeat_is_a_hang_at_the_limit(limit_s: float) -> None:
    watch = Watch(limit_s)
    watch.look(PENDING)
    begin_s = watch.now_s
    found = watch.until_other(PENDING, Verdict.WORKING)
    assert found.verdict is Verdict.HUNG_ENGINE
    assert limit_s <= watch.now_s - begin_s <= limit_s + LOOK_S
    assert "wait for each other" in found.reason


def test_entries_nobody_picks_up_are_work() -> None:
    watch = Watch()
    idle = replace(PENDING, in_flight=0)
    for _ in range(100):
        assert watch.look(idle).verdict is Verdict.IDLE
    unpicked = replace(idle, has_unpicked=True)
    begin_s = watch.now_s
    assert watch.until_other(unpicked, Verdict.WORKING).verdict is Verdict.HUNG_ENGINE
    assert LIMIT_S <= watch.now_s - begin_s <= LIMIT_S + 2 * LOOK_S


def test_a_moving_heartbeat_begins_anew() -> None:
    watch = Watch()
    for beat in range(20):
        for _ in range(int(LIMIT_S / LOOK_S)):
            assert watch.look(replace(PENDING, heartbeat=beat)).verdict is Verdict.WORKING


def test_a_successor_is_not_blamed_for_the_silence_before_it() -> None:
    watch = Watch()
    for generation in range(20):
        for _ in range(int(LIMIT_S / LOOK_S)):
            view = replace(PENDING, owner=(100, generation))
            assert watch.look(view).verdict is Verdict.WORKING


@given(gaps_s=st.lists(st.floats(0.0, 1e6), min_size=1, max_size=60))
def test_time_that_was_not_looked_at_counts_little(gaps_s: list[float]) -> None:
    """The supervisor was stopped, starved, or its host slept: that many looks it takes at least."""
    watch = Watch()
    watch.look(PENDING)
    for looks, gap_s in enumerate(gaps_s, 1):
        found = watch.look(PENDING, gap_s)
        if found.verdict.is_hung:
            assert looks >= LIMIT_S / STEP_MAX_S
            assert sum(min(gap, STEP_MAX_S) for gap in gaps_s[:looks]) >= LIMIT_S - 1e-6


@given(
    beats=st.lists(st.tuples(st.floats(0.0, 100.0), st.booleans()), min_size=1, max_size=80),
    limit_s=st.floats(0.5, 10.0),
)
def test_a_hang_is_never_judged_right_after_a_heartbeat(
    beats: list[tuple[float, bool]], limit_s: float
) -> None:
    watch = Watch(limit_s)
    heartbeat, silent_s = 0, 0.0
    watch.look(replace(PENDING, heartbeat=heartbeat))
    for gap_s, moves in beats:
        heartbeat += moves
        silent_s = 0.0 if moves else silent_s + min(gap_s, STEP_MAX_S)
        found = watch.look(replace(PENDING, heartbeat=heartbeat), gap_s)
        assert found.verdict.is_hung <= (silent_s >= limit_s - 1e-6)


def test_a_stopped_process_is_no_command_s_fault() -> None:
    watch = Watch()
    watch.threads = tuple(replace(thread, state="T") for thread in SLEEPS)
    found = watch.until_other(PENDING, Verdict.WORKING)
    assert found.verdict is Verdict.HUNG_ENGINE
    assert found.is_from_outside
    assert "stopped" in found.reason


def test_an_engine_that_runs_without_end_is_blamed() -> None:
    watch = Watch()
    found = Judgement(Verdict.WORKING)
    while not found.verdict.is_hung:
        watch.threads = (SLEEPS[0], *running([watch.now_s], 0.4))
        found = watch.look(PENDING)
    assert "thread 101 runs without end" in found.reason
    assert not found.is_from_outside


def test_a_starved_process_has_more_time_and_not_for_ever() -> None:
    watch = Watch()
    watch.look(PENDING)
    begin_s = watch.now_s
    found = Judgement(Verdict.WORKING)
    seen = set()
    while not found.verdict.is_hung:
        watch.threads = (SLEEPS[0], *running([watch.now_s], 0.02))
        found = watch.look(PENDING)
        seen.add(found.verdict)
    assert Verdict.STARVED in seen
    assert watch.now_s - begin_s >= 4 * LIMIT_S


def executing(thread: ThreadTimes | None, sequence: int = 1) -> DeviceView:
    commands = (ExecutingView(5, sequence, thread),)
    return replace(PENDING, executing=commands)


def test_a_command_that_waits_for_storage_is_slow_and_no_hang() -> None:
    watch = Watch()
    seen = []
    for beat in range(400):
        waits = ThreadTimes(101, "D" if beat % 2 else "S", 1.0, 1.0, 0.0)
        seen.append(watch.look(replace(executing(waits), heartbeat=beat)).verdict)
    assert seen[0] is Verdict.WORKING
    assert seen[-1] is Verdict.SLOW
    assert {*seen} == {Verdict.WORKING, Verdict.SLOW}
    assert seen.index(Verdict.SLOW) == LIMIT_S / LOOK_S


@pytest.mark.parametrize("share", [1.0, 0.5, 0.15])
def test_a_thread_that_runs_without_end_is_a_hang(share: float) -> None:
    """Also when others want the same processor."""
    watch = Watch()
    begin_s = watch.now_s
    for beat in range(1000):
        (thread,) = running([watch.now_s + LOOK_S], share)
        found = watch.look(replace(executing(thread), heartbeat=beat))
        if found.verdict is not Verdict.WORKING:
            break
    assert found.verdict is Verdict.HUNG_THREAD
    assert found.slot == 5
    assert LIMIT_S <= watch.now_s - begin_s <= LIMIT_S + 2 * LOOK_S


def test_a_crowded_machine_hides_no_endless_thread() -> None:
    """The kernel counts a wait when it is over, and looks find no user time of the process."""
    watch = Watch()
    for beat in range(1000):
        at_s = watch.now_s + LOOK_S
        counted_s = at_s - at_s % 1.0  # four looks in a row see the same
        (thread,) = running([counted_s], 0.1)
        view = executing(thread if beat % 3 else None)
        found = watch.look(replace(view, heartbeat=beat))
        if found.verdict is Verdict.HUNG_THREAD:
            return
    raise AssertionError("never found")


def test_many_commands_of_a_busy_thread_are_no_hang() -> None:
    watch = Watch()
    for beat in range(400):
        (thread,) = running([watch.now_s + LOOK_S], 1.0)
        view = replace(executing(thread, sequence=beat), heartbeat=beat)
        assert watch.look(view).verdict is Verdict.WORKING


def test_time_in_the_kernel_is_storage_s() -> None:
    """A flush that writes gigabytes runs in the kernel for long, and ends."""
    watch = Watch()
    seen = set()
    for beat in range(400):
        at_s = watch.now_s + LOOK_S
        thread = ThreadTimes(101, "R", 1.0, at_s, 0.0)
        seen.add(watch.look(replace(executing(thread), heartbeat=beat)).verdict)
    assert seen == {Verdict.WORKING, Verdict.SLOW}


@given(st.lists(st.tuples(st.sampled_from("RSD"), st.floats(0.0, 1.0)), min_size=1, max_size=100))
def test_only_a_thread_that_ran_at_every_look_hangs(steps: list[tuple[str, float]]) -> None:
    watch = Watch()
    run_s, ran_s = 0.0, 0.0
    for beat, (state, share) in enumerate(steps):
        run_s += share * LOOK_S
        ran_s = ran_s + LOOK_S if state == "R" else 0.0
        thread = ThreadTimes(101, state, run_s, run_s, 0.0)
        found = watch.look(replace(executing(thread), heartbeat=beat))
        assert found.verdict is not Verdict.HUNG_ENGINE
        if found.verdict is Verdict.HUNG_THREAD:
            assert ran_s >= LIMIT_S


CONTROL_SLEEPS = (SLEEPS[0],)


def control_looks(view: ControlView, gaps_s: Iterable[float]) -> list[Judgement]:
    memory: ControlMemory | None = None
    now_s, found = 1000.0, []
    for gap_s in gaps_s:
        now_s += gap_s
        memory, judgement = judge_control(memory, view, now_s, LIMIT_S)
        found.append(judgement)
    return found


def test_a_control_thread_that_does_not_answer_is_a_hang() -> None:
    view = ControlView(is_waited_for=True, is_device_silent=False, threads=CONTROL_SLEEPS)
    found = control_looks(view, [LOOK_S] * 100)
    verdicts = [judgement.verdict for judgement in found]
    assert verdicts.index(Verdict.HUNG_CONTROL) == LIMIT_S / LOOK_S
    assert found[-1].is_from_outside


def test_a_device_that_is_silent_too_has_the_verdict() -> None:
    view = ControlView(is_waited_for=True, is_device_silent=True, threads=CONTROL_SLEEPS)
    assert not any(j.verdict.is_hung for j in control_looks(view, [LOOK_S] * 100))


@given(st.lists(st.floats(0.0, 1e6), max_size=9))
def test_a_supervisor_that_slept_waits_for_the_answer_anew(gaps_s: list[float]) -> None:
    view = ControlView(is_waited_for=True, is_device_silent=False, threads=CONTROL_SLEEPS)
    assert not any(j.verdict.is_hung for j in control_looks(view, [0.1, *gaps_s]))
