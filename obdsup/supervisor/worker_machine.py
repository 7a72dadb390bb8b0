"""The life of a worker process: pure table. Transitions:

STARTING --ANSWERED--> STANDBY: prewarm
STARTING --ANSWERED_SERVING--> SERVING: -
STARTING --STOP_ASKED--> RETIRING: stop, replenish
STARTING --EXITED--> GONE: forget, replenish
STANDBY --ASSIGNED--> SERVING: -
STANDBY --STOP_ASKED--> RETIRING: stop, replenish
STANDBY --EXITED--> GONE: forget, replenish
SERVING --ASSIGNED--> SERVING: -
SERVING --RETURNED--> STANDBY: -
SERVING --RELEASED--> RETIRING: stop, replenish
SERVING --STOP_ASKED--> RETIRING: stop, replenish
SERVING --EXITED--> GONE: tell_devices, forget
RETIRING --RETURNED--> RETIRING: -
RETIRING --RELEASED--> RETIRING: -
RETIRING --STOP_ASKED--> RETIRING: -
RETIRING --EXITED--> GONE: tell_devices, forget, replenish
GONE --RETURNED--> GONE: -
GONE --RELEASED--> GONE: -
GONE --STOP_ASKED--> GONE: -
"""

from __future__ import annotations

from enum import Enum

from obdsup.supervisor.table import Next, illegal_pairs, look_up

__all__ = ["ILLEGAL", "TRANSITIONS", "WorkerAction", "WorkerEvent", "WorkerState", "step"]


class WorkerState(Enum):
    """Where a worker process stands. A STANDBY is given a device; SERVING, it may be given more."""

    STARTING = "starting"
    STANDBY = "standby"
    SERVING = "serving"
    RETIRING = "retiring"  # served its last device, or was told to stop
    GONE = "gone"


class WorkerEvent(Enum):
    """What happened; EXITED: proven dead by its pidfd."""

    ANSWERED = "answered hello"
    ANSWERED_SERVING = "answered hello, serves a device"
    ASSIGNED = "was given a device"
    RETURNED = "could not serve the device, serves none"
    RELEASED = "let go of its last device"
    STOP_ASKED = "stop asked"
    EXITED = "exited"


class WorkerAction(Enum):
    """What the fleet does next."""

    PREWARM = "open the images of all devices"
    STOP = "tell it to stop"
    TELL_DEVICES = "tell the devices it served"
    FORGET = "delete its row"
    REPLENISH = "start a standby if there are too few"


_S, _E, _A = WorkerState, WorkerEvent, WorkerAction
_DEAD = Next(_S.GONE, (_A.FORGET, _A.REPLENISH))
_STOPPED = Next(_S.RETIRING, (_A.STOP, _A.REPLENISH))

TRANSITIONS: dict[tuple[WorkerState, WorkerEvent], Next[WorkerState, WorkerAction]] = {
    (_S.STARTING, _E.ANSWERED): Next(_S.STANDBY, (_A.PREWARM,)),
    (_S.STARTING, _E.ANSWERED_SERVING): Next(_S.SERVING, ()),
    (_S.STARTING, _E.STOP_ASKED): _STOPPED,
    (_S.STARTING, _E.EXITED): _DEAD,
    (_S.STANDBY, _E.ASSIGNED): Next(_S.SERVING, ()),
    (_S.STANDBY, _E.STOP_ASKED): _STOPPED,
    (_S.STANDBY, _E.EXITED): _DEAD,
    (_S.SERVING, _E.ASSIGNED): Next(_S.SERVING, ()),
    (_S.SERVING, _E.RETURNED): Next(_S.STANDBY, ()),
    (_S.SERVING, _E.RELEASED): _STOPPED,
    (_S.SERVING, _E.STOP_ASKED): _STOPPED,
    (_S.SERVING, _E.EXITED): Next(_S.GONE, (_A.TELL_DEVICES, _A.FORGET)),
    (_S.RETIRING, _E.RETURNED): Next(_S.RETIRING, ()),
    (_S.RETIRING, _E.RELEASED): Next(_S.RETIRING, ()),
    (_S.RETIRING, _E.STOP_ASKED): Next(_S.RETIRING, ()),
    (_S.RETIRING, _E.EXITED): Next(_S.GONE, (_A.TELL_DEVICES, _A.FORGET, _A.REPLENISH)),
    (_S.GONE, _E.RETURNED): Next(_S.GONE, ()),
    (_S.GONE, _E.RELEASED): Next(_S.GONE, ()),
    (_S.GONE, _E.STOP_ASKED): Next(_S.GONE, ()),
}

_LEGAL_ONLY_WHILE: dict[WorkerEvent, frozenset[WorkerState]] = {
    _E.ANSWERED: frozenset({_S.STARTING}),
    _E.ANSWERED_SERVING: frozenset({_S.STARTING}),
    _E.ASSIGNED: frozenset({_S.STANDBY, _S.SERVING}),
    _E.RETURNED: frozenset({_S.SERVING, _S.RETIRING, _S.GONE}),
    _E.RELEASED: frozenset({_S.SERVING, _S.RETIRING, _S.GONE}),
    _E.STOP_ASKED: frozenset(_S),
    _E.EXITED: frozenset(_S) - {_S.GONE},
}
ILLEGAL = illegal_pairs(_S, _LEGAL_ONLY_WHILE)


def step(state: WorkerState, event: WorkerEvent, now: float) -> Next[WorkerState, WorkerAction]:
    """The next state and the ordered actions. Pure; ``now`` (monotonic seconds) decides nothing.

    Raises:
        IllegalTransition: the pair is in ILLEGAL.
    """
    return look_up(TRANSITIONS, state, event)
