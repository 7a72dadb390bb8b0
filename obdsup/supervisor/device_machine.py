"""The life of a device from plan to gone: pure table; who serves it is service_machine's matter.

Each action list starts with PERSIST, which writes the state being entered (and so the intent)
before the action that acts on it; RESUMED repeats the action of the state found on disk, and every
action is idempotent. Transitions:

    PLANNED --STARTED--> PLANNED: persist, make_ring
    PLANNED --RING_MADE--> RING_MADE: persist, serve
    PLANNED --STEP_FAILED--> ROLLING_BACK: persist, retract
    PLANNED --RESUMED--> PLANNED: make_ring
    RING_MADE --SERVED--> SERVING: persist, publish
    RING_MADE --STEP_FAILED--> ROLLING_BACK: persist, retract
    RING_MADE --RESUMED--> RING_MADE: serve
    SERVING --PUBLISHED--> ONLINE: settle
    SERVING --STEP_FAILED--> ROLLING_BACK: persist, retract
    SERVING --RESUMED--> SERVING: publish
    ONLINE --REMOVE_ASKED--> RETRACTING: persist, retract
    ONLINE --RESUMED--> ONLINE: -
    ROLLING_BACK --RETRACTED--> RETRACTED: persist, drain
    ROLLING_BACK --STEP_FAILED--> FAILED: settle
    ROLLING_BACK --RESUMED--> ROLLING_BACK: retract
    RETRACTING --RETRACTED--> RETRACTED: persist, drain
    RETRACTING --STEP_FAILED--> ONLINE: settle
    RETRACTING --RESUMED--> RETRACTING: retract
    RETRACTED --DRAINED--> DRAINED: persist, destroy
    RETRACTED --STEP_FAILED--> FAILED: settle
    RETRACTED --RESUMED--> RETRACTED: drain
    DRAINED --DESTROYED--> GONE: delete
    DRAINED --STEP_FAILED--> FAILED: settle
    DRAINED --RESUMED--> DRAINED: destroy
    FAILED --REMOVE_ASKED--> ROLLING_BACK: persist, retract
    FAILED --RESUMED--> FAILED: -
    RESTORING --RESUMED--> RESTORING: make_ring
    RESTORING --RING_MADE--> RESTORING: persist, serve
    RESTORING --SERVED--> RESTORING: persist, publish
    RESTORING --PUBLISHED--> ONLINE: settle
    RESTORING --STEP_FAILED--> RESTORING: settle
    RESTORING --REMOVE_ASKED--> ROLLING_BACK: persist, retract
"""

from __future__ import annotations

from enum import Enum

from obdsup.supervisor.table import Next, illegal_pairs, look_up

__all__ = ["ILLEGAL", "TRANSITIONS", "DeviceAction", "DeviceEvent", "DeviceState", "step"]


class DeviceState(Enum):
    """Values are kept in state.db: never renamed."""

    PLANNED = "planned"  # row and intent written, nothing made
    RING_MADE = "ring_made"  # the provider made the ring, its ids are written
    SERVING = "serving"  # a worker serves, the block device is not there yet
    ONLINE = "online"
    ROLLING_BACK = "rolling_back"  # a create failed; taking back what was made
    RETRACTING = "retracting"  # the block device is being taken away
    RETRACTED = "retracted"  # nobody can use it any more
    DRAINED = "drained"  # nobody serves it any more
    FAILED = "failed"  # a removal got stuck; remove again
    GONE = "gone"
    RESTORING = "restoring"  # of an earlier boot: made again until it is there, never taken back


class DeviceEvent(Enum):
    """What happened; RESUMED: the supervisor was started again."""

    STARTED = "started"
    RING_MADE = "ring made"
    SERVED = "served"
    PUBLISHED = "published"
    REMOVE_ASKED = "remove asked"
    RETRACTED = "retracted"
    DRAINED = "drained"
    DESTROYED = "destroyed"
    STEP_FAILED = "step failed"
    RESUMED = "resumed"


class DeviceAction(Enum):
    """What the device does next, in order."""

    PERSIST = "write the state"
    SETTLE = "write the state and end the operation"
    MAKE_RING = "make the upper and the ring"
    SERVE = "have a worker serve it"
    PUBLISH = "make the block device appear"
    RETRACT = "take the block device away"
    DRAIN = "have the worker let go"
    DESTROY = "remove the ring"
    DELETE = "delete the row"


_S, _E, _A = DeviceState, DeviceEvent, DeviceAction
_BACK = Next(_S.ROLLING_BACK, (_A.PERSIST, _A.RETRACT))
_STUCK = Next(_S.FAILED, (_A.SETTLE,))

TRANSITIONS: dict[tuple[DeviceState, DeviceEvent], Next[DeviceState, DeviceAction]] = {
    (_S.PLANNED, _E.STARTED): Next(_S.PLANNED, (_A.PERSIST, _A.MAKE_RING)),
    (_S.PLANNED, _E.RING_MADE): Next(_S.RING_MADE, (_A.PERSIST, _A.SERVE)),
    (_S.PLANNED, _E.STEP_FAILED): _BACK,
    (_S.PLANNED, _E.RESUMED): Next(_S.PLANNED, (_A.MAKE_RING,)),
    (_S.RING_MADE, _E.SERVED): Next(_S.SERVING, (_A.PERSIST, _A.PUBLISH)),
    (_S.RING_MADE, _E.STEP_FAILED): _BACK,
    (_S.RING_MADE, _E.RESUMED): Next(_S.RING_MADE, (_A.SERVE,)),
    (_S.SERVING, _E.PUBLISHED): Next(_S.ONLINE, (_A.SETTLE,)),
    (_S.SERVING, _E.STEP_FAILED): _BACK,
    (_S.SERVING, _E.RESUMED): Next(_S.SERVING, (_A.PUBLISH,)),
    (_S.ONLINE, _E.REMOVE_ASKED): Next(_S.RETRACTING, (_A.PERSIST, _A.RETRACT)),
    (_S.ONLINE, _E.RESUMED): Next(_S.ONLINE, ()),
    (_S.ROLLING_BACK, _E.RETRACTED): Next(_S.RETRACTED, (_A.PERSIST, _A.DRAIN)),
    (_S.ROLLING_BACK, _E.STEP_FAILED): _STUCK,
    (_S.ROLLING_BACK, _E.RESUMED): Next(_S.ROLLING_BACK, (_A.RETRACT,)),
    (_S.RETRACTING, _E.RETRACTED): Next(_S.RETRACTED, (_A.PERSIST, _A.DRAIN)),
    (_S.RETRACTING, _E.STEP_FAILED): Next(_S.ONLINE, (_A.SETTLE,)),
    (_S.RETRACTING, _E.RESUMED): Next(_S.RETRACTING, (_A.RETRACT,)),
    (_S.RETRACTED, _E.DRAINED): Next(_S.DRAINED, (_A.PERSIST, _A.DESTROY)),
    (_S.RETRACTED, _E.STEP_FAILED): _STUCK,
    (_S.RETRACTED, _E.RESUMED): Next(_S.RETRACTED, (_A.DRAIN,)),
    (_S.DRAINED, _E.DESTROYED): Next(_S.GONE, (_A.DELETE,)),
    (_S.DRAINED, _E.STEP_FAILED): _STUCK,
    (_S.DRAINED, _E.RESUMED): Next(_S.DRAINED, (_A.DESTROY,)),
    (_S.FAILED, _E.REMOVE_ASKED): Next(_S.ROLLING_BACK, (_A.PERSIST, _A.RETRACT)),
    (_S.FAILED, _E.RESUMED): Next(_S.FAILED, ()),
    (_S.RESTORING, _E.RESUMED): Next(_S.RESTORING, (_A.MAKE_RING,)),
    (_S.RESTORING, _E.RING_MADE): Next(_S.RESTORING, (_A.PERSIST, _A.SERVE)),
    (_S.RESTORING, _E.SERVED): Next(_S.RESTORING, (_A.PERSIST, _A.PUBLISH)),
    (_S.RESTORING, _E.PUBLISHED): Next(_S.ONLINE, (_A.SETTLE,)),
    (_S.RESTORING, _E.STEP_FAILED): Next(_S.RESTORING, (_A.SETTLE,)),
    (_S.RESTORING, _E.REMOVE_ASKED): _BACK,
}

_LEGAL_ONLY_WHILE: dict[DeviceEvent, frozenset[DeviceState]] = {
    _E.STARTED: frozenset({_S.PLANNED}),
    _E.RING_MADE: frozenset({_S.PLANNED, _S.RESTORING}),
    _E.SERVED: frozenset({_S.RING_MADE, _S.RESTORING}),
    _E.PUBLISHED: frozenset({_S.SERVING, _S.RESTORING}),
    # else an operation is under way
    _E.REMOVE_ASKED: frozenset({_S.ONLINE, _S.FAILED, _S.RESTORING}),
    _E.RETRACTED: frozenset({_S.ROLLING_BACK, _S.RETRACTING}),
    _E.DRAINED: frozenset({_S.RETRACTED}),
    _E.DESTROYED: frozenset({_S.DRAINED}),
    _E.STEP_FAILED: frozenset(_S) - {_S.ONLINE, _S.FAILED, _S.GONE},
    _E.RESUMED: frozenset(_S) - {_S.GONE},
}
ILLEGAL = illegal_pairs(_S, _LEGAL_ONLY_WHILE)


def step(state: DeviceState, event: DeviceEvent, now: float) -> Next[DeviceState, DeviceAction]:
    """The next state and the ordered actions. Pure; ``now`` (monotonic seconds) decides nothing.

    Raises:
        IllegalTransition: the pair is in ILLEGAL.
    """
    return look_up(TRANSITIONS, state, event)
