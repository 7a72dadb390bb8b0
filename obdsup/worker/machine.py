"""The life of one device inside a worker, as data: states, events, actions, one table.

Pure: no I/O, no clock. A job (open, attach, detach, close) runs in a thread of its own; while it
runs the device is in one of the busy states and further requests for it are put off until it ends,
so that nothing ever happens to a device twice at once. Other devices go on.
"""

from __future__ import annotations

from enum import Enum

__all__ = ["BUSY", "TRANSITIONS", "Action", "Event", "IllegalTransition", "State", "step"]


class State(Enum):
    """Where a device stands. ``LOST``: it was served here and the engine had to let it go."""

    ABSENT = "absent"
    OPENING = "opening"
    WARM = "warm"
    ATTACHING = "attaching"
    SERVING = "serving"
    DRAINING = "draining"
    DROPPING = "dropping"
    CLOSING = "closing"
    LOST = "lost"


class Event(Enum):
    """What was asked, how a job ended, or what the engine reported."""

    PREWARM_ASKED = "prewarm asked"
    REPLACE_ASKED = "prewarm of other files asked"
    FORGET_ASKED = "forget asked"
    SERVE_ASKED = "serve asked"
    DRAIN_ASKED = "drain asked"
    OPENED = "opened"
    OPEN_FAILED = "open failed"
    ATTACHED = "attached"
    ATTACH_FAILED = "attach failed, image open"
    DETACHED = "detached"
    DETACH_FAILED = "detach failed, still served"
    CLOSED = "closed"
    DROPPED = "dropped by the engine"
    FOLLOW_FAILED = "follow failed"


class Action(Enum):
    """What the loop does next. ``REFUSE_*`` answer the request with an error."""

    OPEN = "open the image, catch up with who writes it"
    ATTACH = "open the image unless warm, attach the ring"
    DETACH = "detach the ring"
    DROP = "detach the ring, close the fds and the image"
    CLOSE = "close the image"
    ANSWER = "answer the request: nothing to do"
    FINISH = "answer the request the job was for"
    PUT_OFF = "keep the request until the job ends"
    NOTHING = "nothing"
    REFUSE_SERVED = "refuse: it is served here"
    REFUSE_NOT_SERVED = "refuse: it is not served here"


class IllegalTransition(Exception):
    """An event that can not happen in this state did: the worker is wrong and must stop."""


_S, _E, _A = State, Event, Action
_ASKED = (_E.PREWARM_ASKED, _E.REPLACE_ASKED, _E.FORGET_ASKED, _E.SERVE_ASKED, _E.DRAIN_ASKED)

# States in which a job runs.
BUSY = frozenset({_S.OPENING, _S.ATTACHING, _S.DRAINING, _S.DROPPING, _S.CLOSING})

# (state, event) -> (next state, action); a pair that is not listed is illegal.
TRANSITIONS: dict[tuple[State, Event], tuple[State, Action]] = {
    (_S.ABSENT, _E.PREWARM_ASKED): (_S.OPENING, _A.OPEN),
    (_S.ABSENT, _E.REPLACE_ASKED): (_S.OPENING, _A.OPEN),
    (_S.ABSENT, _E.FORGET_ASKED): (_S.ABSENT, _A.ANSWER),
    (_S.ABSENT, _E.SERVE_ASKED): (_S.ATTACHING, _A.ATTACH),
    (_S.ABSENT, _E.DRAIN_ASKED): (_S.ABSENT, _A.REFUSE_NOT_SERVED),
    (_S.WARM, _E.PREWARM_ASKED): (_S.OPENING, _A.OPEN),  # it is open, and may be behind
    (_S.WARM, _E.REPLACE_ASKED): (_S.OPENING, _A.OPEN),
    (_S.WARM, _E.FORGET_ASKED): (_S.CLOSING, _A.CLOSE),
    (_S.WARM, _E.SERVE_ASKED): (_S.ATTACHING, _A.ATTACH),
    (_S.WARM, _E.DRAIN_ASKED): (_S.WARM, _A.REFUSE_NOT_SERVED),
    (_S.WARM, _E.FOLLOW_FAILED): (_S.CLOSING, _A.CLOSE),
    (_S.SERVING, _E.PREWARM_ASKED): (_S.SERVING, _A.ANSWER),
    (_S.SERVING, _E.REPLACE_ASKED): (_S.SERVING, _A.REFUSE_SERVED),
    (_S.SERVING, _E.FORGET_ASKED): (_S.SERVING, _A.REFUSE_SERVED),
    (_S.SERVING, _E.SERVE_ASKED): (_S.SERVING, _A.REFUSE_SERVED),
    (_S.SERVING, _E.DRAIN_ASKED): (_S.DRAINING, _A.DETACH),
    (_S.SERVING, _E.DROPPED): (_S.DROPPING, _A.DROP),
    (_S.LOST, _E.PREWARM_ASKED): (_S.OPENING, _A.OPEN),
    (_S.LOST, _E.REPLACE_ASKED): (_S.OPENING, _A.OPEN),
    (_S.LOST, _E.FORGET_ASKED): (_S.ABSENT, _A.ANSWER),
    (_S.LOST, _E.SERVE_ASKED): (_S.ATTACHING, _A.ATTACH),
    (_S.LOST, _E.DRAIN_ASKED): (_S.LOST, _A.REFUSE_NOT_SERVED),
    (_S.OPENING, _E.OPENED): (_S.WARM, _A.FINISH),
    (_S.OPENING, _E.OPEN_FAILED): (_S.ABSENT, _A.FINISH),
    (_S.ATTACHING, _E.ATTACHED): (_S.SERVING, _A.FINISH),
    (_S.ATTACHING, _E.ATTACH_FAILED): (_S.WARM, _A.FINISH),
    (_S.ATTACHING, _E.OPEN_FAILED): (_S.ABSENT, _A.FINISH),
    (_S.DRAINING, _E.DETACHED): (_S.WARM, _A.FINISH),
    (_S.DRAINING, _E.DETACH_FAILED): (_S.SERVING, _A.FINISH),
    (_S.DRAINING, _E.CLOSED): (_S.LOST, _A.FINISH),
    (_S.DROPPING, _E.CLOSED): (_S.LOST, _A.NOTHING),
    (_S.CLOSING, _E.CLOSED): (_S.ABSENT, _A.FINISH),
    **{(state, event): (state, _A.PUT_OFF) for state in BUSY for event in _ASKED},
    # The follower reports late: a job that ran meanwhile finds out by itself.
    **{(s, _E.FOLLOW_FAILED): (s, _A.NOTHING) for s in State if s is not _S.WARM},
}  # fmt: skip


def step(state: State, event: Event) -> tuple[State, Action]:
    """The next state and what to do. Raises IllegalTransition for a pair the table lacks."""
    try:
        return TRANSITIONS[(state, event)]
    except KeyError:
        raise IllegalTransition(f"{event.value} while {state.value}") from None
