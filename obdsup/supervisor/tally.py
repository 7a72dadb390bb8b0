"""What is counted from events and deaths for those who look: in memory, since this start."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from dataclasses import asdict, dataclass

from obdsup.supervisor.death import Death
from obdsup.supervisor.event_log import Event, EventLog
from obdsup.supervisor.fleet import Fleet
from obdsup.supervisor.worker import Worker

__all__ = ["ServerChange", "Tally"]


@dataclass(frozen=True, slots=True)
class ServerChange:
    """The last time another worker began to serve a device."""

    at: float  # Unix time, seconds
    kind: str  # takeover, or handoff: a planned one
    stall_ms: float  # without a server
    recovered: int  # commands that were in flight

    def to_json(self) -> dict[str, object]:
        return asdict(self)


class Tally:
    """Listens to the event log and to the fleet; safe from any thread, never blocks."""

    def __init__(self, events: EventLog, fleet: Fleet) -> None:
        self._lock = threading.Lock()
        self._deaths: Counter[str] = Counter()
        self._events: Counter[tuple[str, str]] = Counter()
        self._changes: dict[str, ServerChange] = {}
        events.listeners.append(self._note_event)
        fleet.listeners.append(self._note_death)

    def deaths(self) -> dict[str, int]:
        """Workers that died, by cause."""
        with self._lock:
            return dict(self._deaths)

    def events(self) -> dict[tuple[str, str], int]:
        """Events, by name and level."""
        with self._lock:
            return dict(self._events)

    def last_change(self, device: str) -> ServerChange | None:
        """Of a device; None when there was none since this supervisor started."""
        with self._lock:
            return self._changes.get(device)

    def _note_death(self, worker: Worker, death: Death) -> None:
        with self._lock:
            self._deaths[death.cause.value] += 1

    def _note_event(self, event: Event) -> None:
        change = _change(event)
        with self._lock:
            self._events[event.name, logging.getLevelName(event.level).lower()] += 1
            if change is not None:
                self._changes[event.device] = change
            elif event.name == "device.gone":
                self._changes.pop(event.device, None)


def _change(event: Event) -> ServerChange | None:
    if event.name == "takeover.done":
        kind, stall = "takeover", event.fields.get("dur_ms")
    elif event.name == "handoff.done":
        kind, stall = "handoff", event.fields.get("stall_ms")
    else:
        return None
    recovered = event.fields.get("recovered", 0)
    if not isinstance(stall, int | float) or not isinstance(recovered, int):
        return None
    return ServerChange(event.ts, kind, float(stall), recovered)
