"""The operation ``events``: what happened, asked once or followed.

Following is a long poll: a request may wait for the next event, for a bounded time. A follower
that goes away costs nothing, and one that comes back after a restart of the supervisor goes on
from the number it has: numbers are those of state.db.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

from obdsup.errors import ConfigError, StateError
from obdsup.state.database import Database
from obdsup.state.device import EventRow
from obdsup.state.event_query import EVENTS_AT_MOST, select_events
from obdsup.supervisor.control_server import Operation
from obdsup.supervisor.event_log import Event, EventLog

__all__ = ["EventFeed", "event_json"]

WAIT_LONGEST_S = 30.0
GATHER_S = 0.05  # between two looks of a follower: each has state.db synced


class EventFeed:
    """Answers ``events``. Listens to the event log, so that a waiting request wakes at once."""

    def __init__(self, database: Database, events: EventLog) -> None:
        self._database = database
        self._changed = threading.Condition()
        self._emitted = 0
        events.listeners.append(self._note)

    def operations(self) -> dict[str, Operation]:
        """``events {since, newest, device, pattern, wait_s}``: a list, oldest first."""
        return {"events": self._list}

    def select(self, **wanted: Any) -> list[EventRow]:
        """The events that fit (see select_events), those queued for state.db included."""
        with contextlib.suppress(StateError):  # a full disk: what is committed can be read
            self._database.flush()
        rows: list[EventRow] = self._database.read(select_events(**wanted))  # type: ignore[assignment]
        return rows

    def _note(self, event: Event) -> None:
        with self._changed:
            self._emitted += 1
            self._changed.notify_all()

    def _list(self, request: dict[str, Any], progress: Callable[[str], None]) -> object:
        wanted: dict[str, Any] = {
            "since": _number(request, "since", None),
            "newest": _number(request, "newest", EVENTS_AT_MOST),
            "device": _word(request, "device"),
            "pattern": _word(request, "pattern"),
        }
        deadline = time.monotonic() + _seconds(request, "wait_s")
        while True:
            with self._changed:
                seen = self._emitted
            rows = self.select(**wanted)
            left_s = deadline - time.monotonic()
            if rows or left_s <= 0:
                return [event_json(row) for row in rows]
            with self._changed:
                is_told = self._changed.wait_for(lambda seen=seen: self._emitted > seen, left_s)  # type: ignore[misc]
            if is_told:
                time.sleep(GATHER_S)


def event_json(row: EventRow) -> dict[str, object]:
    """An event as it travels to the command line."""
    return {"id": row.seq, "ts": row.ts, "event": row.name, "device": row.device,
            "fields": row.fields}  # fmt: skip


def _number(request: dict[str, Any], key: str, most: int | None) -> int:
    value = request.get(key, 0)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        what = "an event number" if key == "since" else "a number of events"
        raise ConfigError(f"{key} {value!r} is not {what}", hint="a whole number, 0 or more")
    if most is not None and value > most:
        raise ConfigError(f"{key} is {value}, at most {most} fit in an answer")
    return value


def _word(request: dict[str, Any], key: str) -> str:
    value = request.get(key, "")
    if not isinstance(value, str):
        raise ConfigError(f"{key} {value!r} is not text")
    return value


def _seconds(request: dict[str, Any], key: str) -> float:
    value = request.get(key, 0)
    if not isinstance(value, int | float) or not 0 <= value <= WAIT_LONGEST_S:
        raise ConfigError(f"{key} {value!r} is not a time", hint=f"0 to {WAIT_LONGEST_S:g} seconds")
    return float(value)
