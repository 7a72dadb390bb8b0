"""Our events as supervisord event types: ``OBDSUP`` for all, ``OBDSUP_TAKEOVER`` … for one noun.

A listener's payload is one line ``event:takeover.done device:web level:WARNING ts:1795622400.123``,
then the fields as one line of JSON in ASCII: supervisord counts characters and sends bytes.
"""

from __future__ import annotations

import json
import logging

from supervisor import events as supervisord_events

from obdsup.supervisor.event_log import EVENT_NAMES, Event

__all__ = ["SupervisordEvent", "event_types", "supervisord_event"]


class SupervisordEvent(supervisord_events.Event):  # type: ignore[misc]
    """One event of ours, on its way to listeners."""

    def __init__(self, event: Event) -> None:
        self._event = event

    def payload(self) -> str:
        """What a listener reads."""
        event = self._event
        head = {"event": event.name, "device": event.device,
                "level": logging.getLevelName(event.level), "ts": f"{event.ts:.3f}"}  # fmt: skip
        line = " ".join(f"{key}:{value}" for key, value in head.items())
        return f"{line}\n{json.dumps(event.fields, default=str)}\n"


def _of_noun(noun: str) -> type[SupervisordEvent]:
    return type(f"Obdsup{noun.title()}Event", (SupervisordEvent,), {})


_BY_NOUN = {noun: _of_noun(noun) for noun in sorted({name.split(".")[0] for name in EVENT_NAMES})}
supervisord_events.register("OBDSUP", SupervisordEvent)
for _noun, _type in _BY_NOUN.items():
    supervisord_events.register(f"OBDSUP_{_noun.upper()}", _type)


def supervisord_event(event: Event) -> SupervisordEvent:
    """The event as supervisord's bus carries it."""
    return _BY_NOUN[event.name.split(".")[0]](event)


def event_types() -> dict[str, type]:
    """All event types that a listener may ask for, supervisord's and ours, by name."""
    return {
        name: found
        for name, found in vars(supervisord_events.EventTypes).items()
        if not name.startswith("_")
    }
