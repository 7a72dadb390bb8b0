"""Who serves a device: pure table.

At most one process serves a ring at any time: RECOVER and SERVE_FRESH are reached only from states
in which no worker serves, and a worker that is no more is proven dead before WORKER_EXITED is
given. Transitions:

    UNSERVED --ATTACH_ASKED--> ATTACHING: serve_fresh
    UNSERVED --ADOPTED--> SERVED: report_served
    UNSERVED --ORPHANED--> RECOVERING: recover
    UNSERVED --QUARANTINE_FOUND--> QUARANTINED: -
    UNSERVED --DRAIN_ASKED--> RELEASED: report_served
    ATTACHING --SERVES--> SERVED: report_served
    ATTACHING --REFUSED--> UNSERVED: report_error
    ATTACHING --JOURNAL_REFUSED--> UNSERVED: report_error
    SERVED --WORKER_EXITED--> RECOVERING: recover
    SERVED --CRASH_LOOPED--> WAITING: schedule_retry
    SERVED --GAVE_UP--> QUARANTINED: quarantine
    SERVED --HANDOVER_ASKED--> HANDING_OVER: hand_over
    SERVED --DRAIN_ASKED--> DRAINING: drain
    SERVED --ATTACH_ASKED--> SERVED: report_served
    SERVED --RESUME_ASKED--> SERVED: report_served
    RECOVERING --SERVES--> SERVED: report_served
    RECOVERING --REFUSED--> WAITING: schedule_retry
    RECOVERING --GAVE_UP--> QUARANTINED: quarantine
    RECOVERING --JOURNAL_REFUSED--> RESETTING: reset_ring
    RESETTING --RING_RESET--> RECOVERING: serve_fresh
    RESETTING --REFUSED--> WAITING: schedule_retry
    WAITING --RETRY_DUE--> RECOVERING: recover
    WAITING --DRAIN_ASKED--> RELEASED: report_served
    WAITING --HANDOVER_ASKED--> WAITING: report_error
    WAITING --ATTACH_ASKED--> RECOVERING: recover
    WAITING --RESUME_ASKED--> RECOVERING: recover
    QUARANTINED --RESUME_ASKED--> RECOVERING: lift, recover
    QUARANTINED --ATTACH_ASKED--> QUARANTINED: report_error
    QUARANTINED --HANDOVER_ASKED--> QUARANTINED: report_error
    QUARANTINED --DRAIN_ASKED--> RELEASED: report_served
    HANDING_OVER --HANDED_OVER--> SERVED: report_served
    HANDING_OVER --FELL_BACK--> SERVED: report_error
    HANDING_OVER --HANDOVER_LOST--> RECOVERING: report_error, recover
    DRAINING --DRAINED--> RELEASED: report_served
    DRAINING --DRAIN_FAILED--> SERVED: report_error
    RELEASED --DRAIN_ASKED--> RELEASED: report_served
    RELEASED --ORPHANED--> RECOVERING: recover
    RELEASED --QUARANTINE_FOUND--> QUARANTINED: -
"""

from __future__ import annotations

from enum import Enum

from obdsup.supervisor.table import Next, illegal_pairs, look_up

__all__ = ["ILLEGAL", "TRANSITIONS", "ServiceAction", "ServiceEvent", "ServiceState", "step"]


class ServiceState(Enum):
    """RECOVERING, RESETTING, WAITING and QUARANTINED: I/O queues in the ring until a worker serves
    again; in the last one nothing is tried until an operator says so."""

    UNSERVED = "unserved"
    ATTACHING = "attaching"
    SERVED = "served"
    RECOVERING = "recovering"
    RESETTING = "resetting"
    WAITING = "waiting"
    QUARANTINED = "quarantined"
    HANDING_OVER = "handing_over"
    DRAINING = "draining"
    RELEASED = "released"


class ServiceEvent(Enum):
    """What happened to the service of a device."""

    ATTACH_ASKED = "attach asked"
    ADOPTED = "a living worker serves it"
    ORPHANED = "it was served and nobody does"
    SERVES = "the worker serves"
    REFUSED = "the worker can not serve"
    JOURNAL_REFUSED = "the journal can not be trusted"
    WORKER_EXITED = "the worker is proven dead"
    CRASH_LOOPED = "the worker is proven dead, again and again"
    GAVE_UP = "the worker is proven dead, too often"
    QUARANTINE_FOUND = "it was in quarantine before the restart"
    RESUME_ASKED = "resume asked"
    RING_RESET = "ring reset"
    RETRY_DUE = "retry due"
    HANDOVER_ASKED = "hand-over asked"
    HANDED_OVER = "handed over"
    FELL_BACK = "the old worker serves again"
    HANDOVER_LOST = "neither serves"
    DRAIN_ASKED = "drain asked"
    DRAINED = "drained"
    DRAIN_FAILED = "drain failed"


class ServiceAction(Enum):
    """What to do next, in order."""

    SERVE_FRESH = "serve with a new journal"
    RECOVER = "take over with the journal"
    RESET_RING = "reset the ring"
    SCHEDULE_RETRY = "try again later"
    QUARANTINE = "write down that it is not tried any more, and why"
    LIFT = "write down that it is tried again"
    HAND_OVER = "hand over"
    DRAIN = "drain"
    REPORT_SERVED = "tell who waits: served"
    REPORT_ERROR = "tell who waits: failed"


_S, _E, _A = ServiceState, ServiceEvent, ServiceAction
_RECOVER = Next(_S.RECOVERING, (_A.RECOVER,))
_WAIT = Next(_S.WAITING, (_A.SCHEDULE_RETRY,))
_QUARANTINED = Next(_S.QUARANTINED, (_A.QUARANTINE,))
_SERVED = Next(_S.SERVED, (_A.REPORT_SERVED,))
_RELEASED = Next(_S.RELEASED, (_A.REPORT_SERVED,))

TRANSITIONS: dict[tuple[ServiceState, ServiceEvent], Next[ServiceState, ServiceAction]] = {
    (_S.UNSERVED, _E.ATTACH_ASKED): Next(_S.ATTACHING, (_A.SERVE_FRESH,)),
    (_S.UNSERVED, _E.ADOPTED): _SERVED,
    (_S.UNSERVED, _E.ORPHANED): _RECOVER,
    (_S.UNSERVED, _E.QUARANTINE_FOUND): Next(_S.QUARANTINED, ()),
    (_S.UNSERVED, _E.DRAIN_ASKED): _RELEASED,
    (_S.ATTACHING, _E.SERVES): _SERVED,
    (_S.ATTACHING, _E.REFUSED): Next(_S.UNSERVED, (_A.REPORT_ERROR,)),
    (_S.ATTACHING, _E.JOURNAL_REFUSED): Next(_S.UNSERVED, (_A.REPORT_ERROR,)),
    (_S.SERVED, _E.WORKER_EXITED): _RECOVER,
    (_S.SERVED, _E.CRASH_LOOPED): _WAIT,
    (_S.SERVED, _E.GAVE_UP): _QUARANTINED,
    (_S.SERVED, _E.HANDOVER_ASKED): Next(_S.HANDING_OVER, (_A.HAND_OVER,)),
    (_S.SERVED, _E.DRAIN_ASKED): Next(_S.DRAINING, (_A.DRAIN,)),
    (_S.SERVED, _E.ATTACH_ASKED): _SERVED,
    (_S.SERVED, _E.RESUME_ASKED): _SERVED,
    (_S.RECOVERING, _E.SERVES): _SERVED,
    (_S.RECOVERING, _E.REFUSED): _WAIT,
    (_S.RECOVERING, _E.GAVE_UP): _QUARANTINED,
    (_S.RECOVERING, _E.JOURNAL_REFUSED): Next(_S.RESETTING, (_A.RESET_RING,)),
    (_S.RESETTING, _E.RING_RESET): Next(_S.RECOVERING, (_A.SERVE_FRESH,)),
    (_S.RESETTING, _E.REFUSED): _WAIT,
    (_S.WAITING, _E.RETRY_DUE): _RECOVER,
    (_S.WAITING, _E.DRAIN_ASKED): _RELEASED,
    (_S.WAITING, _E.HANDOVER_ASKED): Next(_S.WAITING, (_A.REPORT_ERROR,)),
    (_S.WAITING, _E.ATTACH_ASKED): _RECOVER,
    (_S.WAITING, _E.RESUME_ASKED): _RECOVER,
    (_S.QUARANTINED, _E.RESUME_ASKED): Next(_S.RECOVERING, (_A.LIFT, _A.RECOVER)),
    (_S.QUARANTINED, _E.ATTACH_ASKED): Next(_S.QUARANTINED, (_A.REPORT_ERROR,)),
    (_S.QUARANTINED, _E.HANDOVER_ASKED): Next(_S.QUARANTINED, (_A.REPORT_ERROR,)),
    (_S.QUARANTINED, _E.DRAIN_ASKED): _RELEASED,
    (_S.HANDING_OVER, _E.HANDED_OVER): _SERVED,
    (_S.HANDING_OVER, _E.FELL_BACK): Next(_S.SERVED, (_A.REPORT_ERROR,)),
    (_S.HANDING_OVER, _E.HANDOVER_LOST): Next(_S.RECOVERING, (_A.REPORT_ERROR, _A.RECOVER)),
    (_S.DRAINING, _E.DRAINED): _RELEASED,
    (_S.DRAINING, _E.DRAIN_FAILED): Next(_S.SERVED, (_A.REPORT_ERROR,)),
    (_S.RELEASED, _E.DRAIN_ASKED): _RELEASED,
    (_S.RELEASED, _E.ORPHANED): _RECOVER,
    (_S.RELEASED, _E.QUARANTINE_FOUND): Next(_S.QUARANTINED, ()),
}

# Asked for in a state that can not: the one who asks has checked, so these are bugs.
_LEGAL_ONLY_WHILE: dict[ServiceEvent, frozenset[ServiceState]] = {
    _E.ATTACH_ASKED: frozenset({_S.UNSERVED, _S.SERVED, _S.WAITING, _S.QUARANTINED}),
    _E.ADOPTED: frozenset({_S.UNSERVED}),
    _E.ORPHANED: frozenset({_S.UNSERVED, _S.RELEASED}),
    _E.SERVES: frozenset({_S.ATTACHING, _S.RECOVERING}),
    _E.REFUSED: frozenset({_S.ATTACHING, _S.RECOVERING, _S.RESETTING}),
    _E.JOURNAL_REFUSED: frozenset({_S.ATTACHING, _S.RECOVERING}),
    _E.WORKER_EXITED: frozenset({_S.SERVED}),  # elsewhere the action that runs gives the event
    _E.CRASH_LOOPED: frozenset({_S.SERVED}),
    _E.GAVE_UP: frozenset({_S.SERVED, _S.RECOVERING}),
    _E.QUARANTINE_FOUND: frozenset({_S.UNSERVED, _S.RELEASED}),
    _E.RESUME_ASKED: frozenset({_S.SERVED, _S.WAITING, _S.QUARANTINED}),
    _E.RING_RESET: frozenset({_S.RESETTING}),
    _E.RETRY_DUE: frozenset({_S.WAITING}),
    _E.HANDOVER_ASKED: frozenset({_S.SERVED, _S.WAITING, _S.QUARANTINED}),
    _E.HANDED_OVER: frozenset({_S.HANDING_OVER}),
    _E.FELL_BACK: frozenset({_S.HANDING_OVER}),
    _E.HANDOVER_LOST: frozenset({_S.HANDING_OVER}),
    _E.DRAIN_ASKED: frozenset({_S.UNSERVED, _S.SERVED, _S.WAITING, _S.QUARANTINED, _S.RELEASED}),
    _E.DRAINED: frozenset({_S.DRAINING}),
    _E.DRAIN_FAILED: frozenset({_S.DRAINING}),
}
ILLEGAL = illegal_pairs(_S, _LEGAL_ONLY_WHILE)


def step(state: ServiceState, event: ServiceEvent, now: float) -> Next[ServiceState, ServiceAction]:
    """The next state and the ordered actions. Pure; ``now`` (monotonic seconds) decides nothing.

    Raises:
        IllegalTransition: the pair is in ILLEGAL.
    """
    return look_up(TRANSITIONS, state, event)
