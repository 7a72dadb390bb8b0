"""Which events a query gives: newest, of a device, of a kind; oldest first always."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from obdsup.state import tables
from obdsup.state.database import Database
from obdsup.state.device import EventRow
from obdsup.state.event_query import select_events


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(tmp_path / "state.db")
    for number in range(20):
        device = ("", "a", "b", "a")[number % 4]
        name = "takeover.done" if number % 2 else "device.online"
        made.later(tables.add_event(float(number), name, device, {"n": number}))
    made.flush()
    yield made
    made.close()


def select(database: Database, **wanted: Any) -> list[int]:
    rows = database.read(select_events(**wanted))
    assert isinstance(rows, list)
    assert all(isinstance(row, EventRow) for row in rows)
    return [row.fields["n"] for row in rows]


def test_all_are_given_oldest_first(database: Database) -> None:
    assert select(database) == list(range(20))


def test_newest_are_the_last_ones_oldest_first(database: Database) -> None:
    assert select(database, newest=3) == [17, 18, 19]


def test_newest_counts_what_fits(database: Database) -> None:
    assert select(database, newest=2, device="b") == [14, 18]
    assert select(database, newest=3, device="a", pattern="takeover.*") == [15, 17, 19]


def test_since_is_a_number_that_was_seen(database: Database) -> None:
    rows = database.read(select_events(newest=3))
    assert isinstance(rows, list)
    assert select(database, since=rows[0].seq) == [18, 19]


def test_a_pattern_that_fits_nothing_gives_nothing(database: Database) -> None:
    assert select(database, pattern="handoff.*") == []
    assert select(database, device="x' OR 1=1 --") == []
