"""A rollout over simulated devices: killed at every step, twice, it ends on one release or back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from obdsup.errors import AlreadyServed, HandoffError, StateError
from obdsup.state.device import RolloutRow
from obdsup.supervisor.rollout import Rollout, RolloutOptions
from obdsup.supervisor.rollout_machine import (
    TRANSITIONS,
    UNDER_WAY,
    RolloutAction,
    RolloutEvent,
    RolloutState,
)

OLD, NEW = "/releases/old", "/releases/new"
OPTIONS = RolloutOptions(canary=1, batch=2, watch_s=1.0)


class Crash(BaseException):
    """The supervisor died here; no handler of errors may see it."""


class Host:
    """What outlives the supervisor: devices with their pins, and what state.db holds."""

    def __init__(self, count: int = 4) -> None:
        self.pins = {f"d{number}": OLD for number in range(count)}
        self.default = OLD
        self.row: RolloutRow | None = None
        self.moves: list[str] = []


class FakeGround:
    """Moves pins. Every effect is a step at which the supervisor may die, before or after it."""

    def __init__(self, host: Host, crash_at: int = -1, bad: str = "") -> None:
        self.host = host
        self.crash_at = crash_at
        self.bad = bad  # name of the call that finds something wrong
        self.steps = 0
        self.watched: list[int] = []  # how many had moved at each watch

    def _step(self) -> None:
        if self.steps == self.crash_at:
            raise Crash
        self.steps += 1

    def _found(self, call: str) -> str:
        return f"planted in {call}" if self.bad == call else ""

    def begin(self) -> None:
        pass

    def aim(self, row: RolloutRow) -> str:
        self._step()
        return self._found("aim")

    def prepare(self, row: RolloutRow) -> str:
        self._step()
        return self._found("prepare")

    def next_group(self, row: RolloutRow, count: int) -> tuple[str, ...]:
        return tuple(self.candidates(row)[:count])

    def candidates(self, row: RolloutRow) -> list[str]:
        return [n for n, pin in self.host.pins.items() if pin != NEW and n not in row.moved]

    def persist(self, row: RolloutRow) -> None:
        self._step()
        if self.bad == f"persist {row.state}":
            raise StateError("planted: the disk is full")
        self.host.row = row
        self._step()

    def move(self, row: RolloutRow) -> str:
        kept = self.host.row
        assert kept is not None
        assert set(row.moved) == set(kept.moved), "moved before that was written"
        for name in row.moved:
            self._step()
            if self.bad == f"move {name}":
                return "planted"
            if self.host.pins[name] != NEW:
                self.host.pins[name] = NEW
                self.host.moves.append(name)
            self._step()
        return self._found("move")

    def watch(self, row: RolloutRow) -> str:
        assert self.host.row is not None
        assert self.host.row.state == RolloutState.WATCHING.value
        self.watched.append(len(row.moved))
        self._step()
        return self._found(f"watch {len(row.moved)}")

    def finish(self, row: RolloutRow) -> str:
        assert set(self.host.pins.values()) == {NEW}
        self._step()
        if self.bad == "finish":
            return "planted"
        self.host.default = row.target
        self._step()
        return ""

    def move_back(self, row: RolloutRow) -> str:
        for name in row.moved:
            self._step()
            self.host.pins[name] = OLD
        return self._found("move_back")


def carry_out(ground: FakeGround) -> Rollout:
    """From the beginning, or from what is kept."""
    row = ground.host.row
    rollout = Rollout(ground, row, lambda *args, **fields: None)
    if row is None:
        first = RolloutRow(NEW, OLD, "idle", {"canary": 1, "batch": 2, "watch_s": 1}, (), "", 0, 0)
        rollout = Rollout(ground, first, lambda *args, **fields: None)
        rollout.carry_out(RolloutEvent.STARTED)
    else:
        rollout.carry_out(RolloutEvent.RESUMED)
    return rollout


def check_end(host: Host) -> None:
    assert host.row is not None
    pins = set(host.pins.values())
    if host.row.state == RolloutState.DONE.value:
        assert (pins, host.default) == ({NEW}, NEW)
    else:
        assert host.row.state == RolloutState.ROLLED_BACK.value
        assert (pins, host.default) == ({OLD}, OLD)
        assert host.row.reason


BAD = [
    "", "prepare", "persist canary", "move d0", "watch 1", "persist batch", "move d2", "watch 3",
    "watch 4", "persist finishing", "finish",
]  # fmt: skip


@pytest.mark.parametrize("bad", BAD)
def test_killed_anywhere_twice_it_ends_done_or_rolled_back(bad: str) -> None:
    whole = FakeGround(Host(), bad=bad)
    carry_out(whole)
    check_end(whole.host)
    assert whole.host.row is not None
    assert (whole.host.row.state == "done") == (not bad)
    for first in range(whole.steps):
        for second in range(whole.steps):
            host = Host()
            for crash_at in (first, second):
                ground = FakeGround(host, crash_at, bad)
                if host.row is not None or crash_at == first:
                    try:
                        carry_out(ground)
                    except Crash:
                        continue
            if host.row is None:
                assert set(host.pins.values()) == {OLD}  # nothing written, nothing done
                continue
            carry_out(FakeGround(host, bad=bad))
            check_end(host)


def test_a_restart_moves_no_batch_without_a_watch_in_between() -> None:
    whole = FakeGround(Host())
    carry_out(whole)
    for crash_at in range(whole.steps):
        host = Host()
        with pytest.raises(Crash):
            carry_out(FakeGround(host, crash_at))
        if host.row is None or host.row.state != "canary":
            continue
        ground = FakeGround(host)
        carry_out(ground)
        assert ground.watched[0] == 1, "one canary, also after a restart"


def test_a_target_that_is_gone_at_the_restart_is_rolled_back() -> None:
    host = Host()
    with pytest.raises(Crash):
        carry_out(FakeGround(host, 9))
    assert NEW in host.pins.values()
    carry_out(FakeGround(host, bad="aim"))
    check_end(host)


def test_what_can_not_go_back_is_failed_and_abort_tries_again() -> None:
    host = Host()
    ground = FakeGround(host, bad="move_back")
    with pytest.raises(Crash):
        carry_out(FakeGround(host, 9))
    assert host.row is not None
    host.row = replace(host.row, state="rolling_back", reason="planted")
    rollout = carry_out(ground)
    assert rollout.row.state == "failed"
    assert "planted in move_back" in rollout.row.reason
    ground.bad = ""
    rollout.abort()
    assert rollout.row.state == "rolled_back"
    assert set(host.pins.values()) == {OLD}


def test_only_one_at_a_time_and_nothing_to_abort_afterwards() -> None:
    host = Host()
    rollout = Rollout(FakeGround(host), None, lambda *args, **fields: None)
    with pytest.raises(StateError, match="no rollout"):
        rollout.abort()
    lines: list[str] = []
    rollout.start(NEW, OLD, OPTIONS)
    assert rollout.wait(lines.append).state == "done"
    assert [line.split(":")[0] for line in lines] == [
        "preparing", "canary", "watching", "batch", "watching", "batch", "watching", "finishing",
        "done",
    ]  # fmt: skip
    rollout.start(OLD, NEW, OPTIONS)
    rollout.wait(lines.append)
    ground = FakeGround(host)
    under_way = Rollout(ground, replace(rollout.row, state="watching"), lambda *a, **f: None)
    with pytest.raises(AlreadyServed, match="under way"):
        under_way.start(NEW, OLD, OPTIONS)


def test_who_waits_is_told_why_it_was_rolled_back() -> None:
    rollout = Rollout(FakeGround(Host(), bad="watch 1"), None, lambda *args, **fields: None)
    rollout.start(NEW, OLD, OPTIONS)
    with pytest.raises(HandoffError, match="was rolled back: planted in watch 1"):
        rollout.wait(lambda text: None)


def test_an_abort_in_the_watch_rolls_back() -> None:
    host = Host()
    ground = FakeGround(host)
    rollout = Rollout(ground, None, lambda *args, **fields: None)

    def watch(row: RolloutRow) -> str:
        rollout._abort_asked.set()
        return ""

    ground.watch = watch  # type: ignore[method-assign]
    rollout.start(NEW, OLD, OPTIONS)
    with pytest.raises(HandoffError, match="aborted by the operator"):
        rollout.wait(lambda text: None)
    check_end(host)


def test_state_is_written_before_anything_is_done_in_it() -> None:
    acting = set(RolloutAction) - {RolloutAction.PERSIST, RolloutAction.REPORT}
    for (state, event), (target, actions) in TRANSITIONS.items():
        if acting & set(actions) and event is not RolloutEvent.RESUMED:
            assert actions[0] is RolloutAction.PERSIST, (state, event)
        if event is RolloutEvent.RESUMED:
            assert target is state
            assert RolloutAction.PERSIST not in actions


def test_every_state_under_way_goes_on_after_a_restart() -> None:
    for state in UNDER_WAY:
        assert TRANSITIONS[state, RolloutEvent.RESUMED].actions, state
