"""Which events of state.db are wanted: after a number, the newest ones, of a device, of a kind."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable

from obdsup.state.device import EventRow

__all__ = ["EVENTS_AT_MOST", "select_events"]

EVENTS_AT_MOST = 5000  # in one answer: a few hundred bytes each, and a line has 4 MiB


def select_events(
    *, since: int = 0, newest: int = 0, device: str = "", pattern: str = ""
) -> Callable[[sqlite3.Connection], list[EventRow]]:
    """A query for events, which gives them oldest first.

    Args:
        since: only events with a greater number.
        newest: of those that fit, only so many of the last; 0: the first EVENTS_AT_MOST.
        device: only of this device; "": of all and of none.
        pattern: the name as a shell pattern, e.g. ``takeover.*``; "": any.
    """
    conditions = ["seq > ?"]
    values: list[int | str] = [since]
    if device:
        conditions.append("device = ?")
        values.append(device)
    if pattern:
        conditions.append("name GLOB ?")
        values.append(pattern)
    order = "DESC" if newest else "ASC"
    values.append(min(newest or EVENTS_AT_MOST, EVENTS_AT_MOST))
    text = (
        "SELECT seq, ts, name, device, fields FROM events "
        f"WHERE {' AND '.join(conditions)} ORDER BY seq {order} LIMIT ?"
    )

    def query(connection: sqlite3.Connection) -> list[EventRow]:
        rows = connection.execute(text, values).fetchall()
        found = [EventRow(s, ts, name, dev, json.loads(raw)) for s, ts, name, dev, raw in rows]
        return found[::-1] if newest else found

    return query
