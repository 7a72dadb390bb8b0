"""The life of a rollout, from one release of the workers to another: pure table.

Each action list starts with PERSIST, which writes the state being entered before anything is done
in it; RESUMED is given to a rollout that a dead supervisor left. What it decides: moves, watches
and preparations go on (each is idempotent, and a watch starts its time anew), a roll-back goes on.
A failed hand-over, a death, a hang, errors, slowness: each is a BAD_SIGN. Transitions:

    IDLE --STARTED--> PREPARING: persist, prepare
    PREPARING --READY--> CANARY: persist, move
    PREPARING --BAD_SIGN--> ROLLING_BACK: persist, move_back
    PREPARING --ABORT_ASKED--> ROLLING_BACK: persist, move_back
    PREPARING --RESUMED--> PREPARING: prepare
    CANARY --MOVED--> WATCHING: persist, watch
    CANARY --BAD_SIGN--> ROLLING_BACK: persist, move_back
    CANARY --ABORT_ASKED--> ROLLING_BACK: persist, move_back
    CANARY --RESUMED--> CANARY: move
    WATCHING --QUIET--> BATCH: persist, move
    WATCHING --ALL_QUIET--> FINISHING: persist, finish
    WATCHING --BAD_SIGN--> ROLLING_BACK: persist, move_back
    WATCHING --ABORT_ASKED--> ROLLING_BACK: persist, move_back
    WATCHING --RESUMED--> WATCHING: watch
    BATCH --MOVED--> WATCHING: persist, watch
    BATCH --BAD_SIGN--> ROLLING_BACK: persist, move_back
    BATCH --ABORT_ASKED--> ROLLING_BACK: persist, move_back
    BATCH --RESUMED--> BATCH: move
    FINISHING --FINISHED--> DONE: persist, report
    FINISHING --BAD_SIGN--> ROLLING_BACK: persist, move_back
    FINISHING --RESUMED--> FINISHING: finish
    DONE --STARTED--> PREPARING: persist, prepare
    DONE --RESUMED--> DONE: -
    ROLLING_BACK --MOVED_BACK--> ROLLED_BACK: persist, report
    ROLLING_BACK --STUCK--> FAILED: persist, report
    ROLLING_BACK --RESUMED--> ROLLING_BACK: move_back
    ROLLED_BACK --STARTED--> PREPARING: persist, prepare
    ROLLED_BACK --RESUMED--> ROLLED_BACK: -
    FAILED --STARTED--> PREPARING: persist, prepare
    FAILED --ABORT_ASKED--> ROLLING_BACK: persist, move_back
    FAILED --RESUMED--> FAILED: -
"""

from __future__ import annotations

from enum import Enum

from obdsup.supervisor.table import Next, illegal_pairs, look_up

__all__ = [
    "ILLEGAL",
    "TRANSITIONS",
    "UNDER_WAY",
    "RolloutAction",
    "RolloutEvent",
    "RolloutState",
    "step",
]


class RolloutState(Enum):
    """Values are kept in state.db: never renamed."""

    IDLE = "idle"  # there never was one
    PREPARING = "preparing"  # standbys of the new release open the images
    CANARY = "canary"  # the first devices move
    WATCHING = "watching"  # what has moved is compared with how it did before
    BATCH = "batch"  # some more devices move
    FINISHING = "finishing"  # the new release becomes the one of new devices
    DONE = "done"
    ROLLING_BACK = "rolling_back"  # what has moved goes back
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"  # something could not go back; abort tries again


class RolloutEvent(Enum):
    """What happened; RESUMED: the supervisor was started again."""

    STARTED = "started"
    READY = "ready"
    MOVED = "moved"
    QUIET = "quiet"
    ALL_QUIET = "all moved, and quiet"
    FINISHED = "finished"
    BAD_SIGN = "bad sign"
    ABORT_ASKED = "abort asked"
    MOVED_BACK = "moved back"
    STUCK = "stuck"
    RESUMED = "resumed"


class RolloutAction(Enum):
    """What to do next, in order."""

    PERSIST = "write the state"
    PREPARE = "have standbys of the new release open every image"
    MOVE = "hand the next devices over"
    WATCH = "watch what has moved"
    FINISH = "make the new release the one of new devices"
    MOVE_BACK = "hand what has moved back"
    REPORT = "tell who waits"


_S, _E, _A = RolloutState, RolloutEvent, RolloutAction
_PREPARE = Next(_S.PREPARING, (_A.PERSIST, _A.PREPARE))
_WATCH = Next(_S.WATCHING, (_A.PERSIST, _A.WATCH))
_BACK = Next(_S.ROLLING_BACK, (_A.PERSIST, _A.MOVE_BACK))

TRANSITIONS: dict[tuple[RolloutState, RolloutEvent], Next[RolloutState, RolloutAction]] = {
    (_S.IDLE, _E.STARTED): _PREPARE,
    (_S.PREPARING, _E.READY): Next(_S.CANARY, (_A.PERSIST, _A.MOVE)),
    (_S.PREPARING, _E.BAD_SIGN): _BACK,
    (_S.PREPARING, _E.ABORT_ASKED): _BACK,
    (_S.PREPARING, _E.RESUMED): Next(_S.PREPARING, (_A.PREPARE,)),
    (_S.CANARY, _E.MOVED): _WATCH,
    (_S.CANARY, _E.BAD_SIGN): _BACK,
    (_S.CANARY, _E.ABORT_ASKED): _BACK,
    (_S.CANARY, _E.RESUMED): Next(_S.CANARY, (_A.MOVE,)),
    (_S.WATCHING, _E.QUIET): Next(_S.BATCH, (_A.PERSIST, _A.MOVE)),
    (_S.WATCHING, _E.ALL_QUIET): Next(_S.FINISHING, (_A.PERSIST, _A.FINISH)),
    (_S.WATCHING, _E.BAD_SIGN): _BACK,
    (_S.WATCHING, _E.ABORT_ASKED): _BACK,
    (_S.WATCHING, _E.RESUMED): Next(_S.WATCHING, (_A.WATCH,)),
    (_S.BATCH, _E.MOVED): _WATCH,
    (_S.BATCH, _E.BAD_SIGN): _BACK,
    (_S.BATCH, _E.ABORT_ASKED): _BACK,
    (_S.BATCH, _E.RESUMED): Next(_S.BATCH, (_A.MOVE,)),
    (_S.FINISHING, _E.FINISHED): Next(_S.DONE, (_A.PERSIST, _A.REPORT)),
    (_S.FINISHING, _E.BAD_SIGN): _BACK,
    (_S.FINISHING, _E.RESUMED): Next(_S.FINISHING, (_A.FINISH,)),
    (_S.DONE, _E.STARTED): _PREPARE,
    (_S.DONE, _E.RESUMED): Next(_S.DONE, ()),
    (_S.ROLLING_BACK, _E.MOVED_BACK): Next(_S.ROLLED_BACK, (_A.PERSIST, _A.REPORT)),
    (_S.ROLLING_BACK, _E.STUCK): Next(_S.FAILED, (_A.PERSIST, _A.REPORT)),
    (_S.ROLLING_BACK, _E.RESUMED): Next(_S.ROLLING_BACK, (_A.MOVE_BACK,)),
    (_S.ROLLED_BACK, _E.STARTED): _PREPARE,
    (_S.ROLLED_BACK, _E.RESUMED): Next(_S.ROLLED_BACK, ()),
    (_S.FAILED, _E.STARTED): _PREPARE,
    (_S.FAILED, _E.ABORT_ASKED): _BACK,
    (_S.FAILED, _E.RESUMED): Next(_S.FAILED, ()),
}

UNDER_WAY = frozenset(_S) - {_S.IDLE, _S.DONE, _S.ROLLED_BACK, _S.FAILED}

_LEGAL_ONLY_WHILE: dict[RolloutEvent, frozenset[RolloutState]] = {
    _E.STARTED: frozenset(_S) - UNDER_WAY,
    _E.READY: frozenset({_S.PREPARING}),
    _E.MOVED: frozenset({_S.CANARY, _S.BATCH}),
    _E.QUIET: frozenset({_S.WATCHING}),
    _E.ALL_QUIET: frozenset({_S.WATCHING}),
    _E.FINISHED: frozenset({_S.FINISHING}),
    _E.BAD_SIGN: UNDER_WAY - {_S.ROLLING_BACK},
    _E.ABORT_ASKED: frozenset({_S.PREPARING, _S.CANARY, _S.WATCHING, _S.BATCH, _S.FAILED}),
    _E.MOVED_BACK: frozenset({_S.ROLLING_BACK}),
    _E.STUCK: frozenset({_S.ROLLING_BACK}),
    _E.RESUMED: frozenset(_S) - {_S.IDLE},
}
ILLEGAL = illegal_pairs(_S, _LEGAL_ONLY_WHILE)


def step(state: RolloutState, event: RolloutEvent, now: float) -> Next[RolloutState, RolloutAction]:
    """The next state and the ordered actions. Pure; ``now`` (monotonic seconds) decides nothing.

    Raises:
        IllegalTransition: the pair is in ILLEGAL.
    """
    return look_up(TRANSITIONS, state, event)
