"""The three machines: total, pictured in their docstrings, and safe to interrupt anywhere."""

from __future__ import annotations

import contextlib
import importlib
from itertools import product
from types import ModuleType

import pytest

from obdsup.supervisor.device_machine import DeviceAction, DeviceEvent, DeviceState
from obdsup.supervisor.device_machine import step as device_step
from obdsup.supervisor.service_machine import TRANSITIONS, ServiceAction, ServiceEvent, ServiceState
from obdsup.supervisor.table import IllegalTransition, diagram

MACHINES = {
    "device_machine": ("DeviceState", "DeviceEvent"),
    "rollout_machine": ("RolloutState", "RolloutEvent"),
    "service_machine": ("ServiceState", "ServiceEvent"),
    "worker_machine": ("WorkerState", "WorkerEvent"),
}


@pytest.fixture(params=sorted(MACHINES))
def machine(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(f"obdsup.supervisor.{request.param}")


def enums(machine: ModuleType) -> tuple[type, type]:
    names = MACHINES[machine.__name__.rsplit(".", 1)[1]]
    return getattr(machine, names[0]), getattr(machine, names[1])


def test_every_pair_is_either_a_transition_or_illegal(machine: ModuleType) -> None:
    states, events = enums(machine)
    pairs = set(product(states, events))
    assert set(machine.TRANSITIONS) | machine.ILLEGAL == pairs
    assert set(machine.TRANSITIONS) & machine.ILLEGAL == set()


def test_illegal_pairs_raise(machine: ModuleType) -> None:
    for state, event in machine.ILLEGAL:
        with pytest.raises(IllegalTransition):
            machine.step(state, event, 0.0)


def test_docstring_shows_the_table(machine: ModuleType) -> None:
    shown = [line.strip() for line in (machine.__doc__ or "").splitlines() if "-->" in line]
    assert shown == [line.strip() for line in diagram(machine.TRANSITIONS).splitlines()]


def test_every_state_can_be_reached(machine: ModuleType) -> None:
    states, _ = enums(machine)
    first = next(iter(states))
    states_of_a_boot = {DeviceState.RESTORING}  # written before the machine runs
    seen = {first} | (states_of_a_boot & set(states))
    edge = list(seen)
    while edge:
        state = edge.pop()
        for (source, _), (target, _) in machine.TRANSITIONS.items():
            if source is state and target not in seen:
                seen.add(target)
                edge.append(target)
    assert seen == set(states)


# -- at most one server ----------------------------------------------------------------------------
NOBODY_SERVES = {
    ServiceState.UNSERVED, ServiceState.RECOVERING, ServiceState.RESETTING, ServiceState.WAITING,
    ServiceState.QUARANTINED, ServiceState.RELEASED,
}  # fmt: skip
TAKING = {ServiceAction.RECOVER, ServiceAction.SERVE_FRESH, ServiceAction.RESET_RING}
PROOF_OF_DEATH = {
    ServiceEvent.WORKER_EXITED, ServiceEvent.HANDOVER_LOST,
}  # fmt: skip


def test_a_ring_is_taken_only_when_nobody_serves_it() -> None:
    for (state, event), (_, actions) in TRANSITIONS.items():
        if TAKING & set(actions):
            assert state in NOBODY_SERVES or event in PROOF_OF_DEATH, (state, event)


def test_a_reset_follows_only_a_refused_journal() -> None:
    causes = {e for (_, e), (_, a) in TRANSITIONS.items() if ServiceAction.RESET_RING in a}
    assert causes == {ServiceEvent.JOURNAL_REFUSED}


def test_nothing_but_resume_ends_a_quarantine_with_a_server() -> None:
    causes = {
        event
        for (state, event), (target, _) in TRANSITIONS.items()
        if state is ServiceState.QUARANTINED and target is ServiceState.RECOVERING
    }
    assert causes == {ServiceEvent.RESUME_ASKED}


def test_a_quarantine_is_written_down_before_anything_else_and_lifted_before_serving() -> None:
    for (_, _), (target, actions) in TRANSITIONS.items():
        if target is ServiceState.QUARANTINED and ServiceAction.QUARANTINE in actions:
            assert actions[0] is ServiceAction.QUARANTINE
        if ServiceAction.LIFT in actions:
            assert actions.index(ServiceAction.LIFT) < actions.index(ServiceAction.RECOVER)


# -- interrupted anywhere --------------------------------------------------------------------------
ENDS_WITH = {
    DeviceAction.MAKE_RING: DeviceEvent.RING_MADE,
    DeviceAction.SERVE: DeviceEvent.SERVED,
    DeviceAction.PUBLISH: DeviceEvent.PUBLISHED,
    DeviceAction.RETRACT: DeviceEvent.RETRACTED,
    DeviceAction.DRAIN: DeviceEvent.DRAINED,
    DeviceAction.DESTROY: DeviceEvent.DESTROYED,
}


class Disk:
    """What outlives the supervisor: the row's phase (None: no row) and what was made."""

    def __init__(self, phase: DeviceState | None = None) -> None:
        self.phase = phase
        self.has_ring = phase not in (None, DeviceState.PLANNED)
        self.is_published = phase in (DeviceState.ONLINE, DeviceState.RETRACTING)


class Crash(Exception):
    """The supervisor died here."""


def run(disk: Disk, event: DeviceEvent, crash_at: int, fail: DeviceAction | None = None) -> int:
    """Carries out actions on the disk; dies before action number crash_at; returns how many."""
    state = disk.phase or DeviceState.PLANNED
    count = 0
    following: DeviceEvent | None = event
    while following is not None:
        state, actions = device_step(state, following, 0.0)
        following = None
        for action in actions:
            if count == crash_at:
                raise Crash
            count += 1
            if action in (DeviceAction.PERSIST, DeviceAction.SETTLE):
                disk.phase = state
            elif action is DeviceAction.DELETE:
                assert not disk.has_ring, "a row is deleted only after its ring"
                disk.phase = None
            elif action is fail:
                following = DeviceEvent.STEP_FAILED
            else:
                act(disk, action)
                following = ENDS_WITH[action]
    return count


def act(disk: Disk, action: DeviceAction) -> None:
    assert disk.phase is not None, "intent is written before anything is made"
    if action is DeviceAction.MAKE_RING:
        disk.has_ring = True
    elif action is DeviceAction.PUBLISH:
        assert disk.has_ring
        disk.is_published = True
    elif action is DeviceAction.RETRACT:
        disk.is_published = False
    elif action is DeviceAction.DRAIN:
        assert not disk.is_published, "drained while it can be used"
    elif action is DeviceAction.DESTROY:
        assert not disk.is_published
        disk.has_ring = False


@pytest.mark.parametrize("fail", [None, DeviceAction.MAKE_RING, DeviceAction.SERVE])
def test_a_restore_interrupted_anywhere_is_never_taken_back(fail: DeviceAction | None) -> None:
    for first in range(8):
        disk = Disk(DeviceState.RESTORING)
        disk.has_ring = False
        with contextlib.suppress(Crash):
            run(disk, DeviceEvent.RESUMED, first, fail)
        assert disk.phase in (DeviceState.RESTORING, DeviceState.ONLINE)
        run(disk, DeviceEvent.RESUMED, -1)
        assert disk.phase is DeviceState.ONLINE
        assert disk.is_published


STARTS = [(None, DeviceEvent.STARTED), (DeviceState.ONLINE, DeviceEvent.REMOVE_ASKED)]
FAILING = [None, DeviceAction.MAKE_RING, DeviceAction.SERVE, DeviceAction.PUBLISH]


@pytest.mark.parametrize(("start", "event"), STARTS)
@pytest.mark.parametrize("fail", FAILING)
def test_interrupted_anywhere_twice_ends_online_or_gone(
    start: DeviceState | None, event: DeviceEvent, fail: DeviceAction | None
) -> None:
    total = run(Disk(start), event, -1, fail)
    for first in range(total):
        for second in range(12):
            disk = Disk(start)
            with pytest.raises(Crash):
                run(disk, event, first, fail)
            if disk.phase is None and start is None:
                continue  # nothing was written, nothing was made
            try:
                if disk.phase is not None:
                    run(disk, DeviceEvent.RESUMED, second, fail)
            except Crash:
                pass
            if disk.phase is not None:
                run(disk, DeviceEvent.RESUMED, -1, fail)
            if disk.phase is None:
                assert not disk.has_ring
                assert not disk.is_published
            else:
                assert disk.phase is DeviceState.ONLINE
                assert disk.is_published


def test_removal_of_a_device_in_use_leaves_it_online() -> None:
    disk = Disk(DeviceState.ONLINE)
    run(disk, DeviceEvent.REMOVE_ASKED, -1, DeviceAction.RETRACT)
    assert disk.phase is DeviceState.ONLINE
    assert disk.is_published


def test_a_removal_that_is_stuck_can_be_asked_again() -> None:
    disk = Disk(DeviceState.ONLINE)
    run(disk, DeviceEvent.REMOVE_ASKED, -1, DeviceAction.DESTROY)
    assert disk.phase is DeviceState.FAILED
    run(disk, DeviceEvent.REMOVE_ASKED, -1)
    assert disk.phase is None
