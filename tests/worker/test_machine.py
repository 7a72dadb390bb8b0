"""The device machine of a worker: the table is total where it must be, busy states put off."""

from __future__ import annotations

import pytest

from obdsup.worker.machine import BUSY, TRANSITIONS, Action, Event, IllegalTransition, State, step

ASKED = {
    Event.PREWARM_ASKED,
    Event.REPLACE_ASKED,
    Event.FORGET_ASKED,
    Event.SERVE_ASKED,
    Event.DRAIN_ASKED,
}
JOBS = {Action.OPEN, Action.ATTACH, Action.DETACH, Action.DROP, Action.CLOSE}
JOB_ENDS = {
    State.OPENING: {Event.OPENED, Event.OPEN_FAILED},
    State.ATTACHING: {Event.ATTACHED, Event.ATTACH_FAILED, Event.OPEN_FAILED},
    State.DRAINING: {Event.DETACHED, Event.DETACH_FAILED, Event.CLOSED},
    State.DROPPING: {Event.CLOSED},
    State.CLOSING: {Event.CLOSED},
}
# What can not happen, listed: a job's end without the job, an engine report while not serving.
ILLEGAL = {
    (state, event)
    for state in State
    for event in set(Event) - ASKED - {Event.FOLLOW_FAILED}
    if event not in JOB_ENDS.get(state, set()) and (state, event) != (State.SERVING, Event.DROPPED)
}


def test_every_pair_is_either_in_the_table_or_listed_as_illegal() -> None:
    pairs = {(state, event) for state in State for event in Event}
    assert TRANSITIONS.keys() | ILLEGAL == pairs
    assert TRANSITIONS.keys() & ILLEGAL == set()


@pytest.mark.parametrize("pair", sorted(ILLEGAL, key=str), ids=str)
def test_illegal_pairs_stop_the_worker(pair: tuple[State, Event]) -> None:
    with pytest.raises(IllegalTransition):
        step(*pair)


def test_a_job_starts_exactly_on_entering_a_busy_state() -> None:
    for (before, event), (after, action) in TRANSITIONS.items():
        assert (action in JOBS) == (after in BUSY and before not in BUSY), (before, event)


def test_requests_for_a_busy_device_are_put_off() -> None:
    for state in BUSY:
        for event in ASKED:
            assert step(state, event) == (state, Action.PUT_OFF)


def test_every_request_is_answered_refused_put_off_or_starts_a_job() -> None:
    answers = {Action.ANSWER, Action.REFUSE_SERVED, Action.REFUSE_NOT_SERVED, Action.PUT_OFF}
    for state in State:
        for event in ASKED:
            assert step(state, event)[1] in answers | JOBS


def test_a_served_device_is_only_let_go_by_drain_or_by_the_engine() -> None:
    leaving = {event for event in Event if (State.SERVING, event) in TRANSITIONS
               and step(State.SERVING, event)[0] is not State.SERVING}  # fmt: skip
    assert leaving == {Event.DRAIN_ASKED, Event.DROPPED}
