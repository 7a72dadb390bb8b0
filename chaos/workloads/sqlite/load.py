"""The load: two databases, their writers, readers beside them, and deaths of the writers."""

from __future__ import annotations

import random
import selectors
import time
from collections.abc import Sequence
from pathlib import Path

from chaos.workloads.sqlite.database import Database

__all__ = ["SqliteLoad"]

WAIT_S = 0.1
CHECK_EVERY_S = (1.0, 3.0)  # by the seed, between these
KILL_EVERY_S = (1.5, 5.0)
SLOW_FACTOR = 10  # where a Python start alone takes a second


class SqliteLoad:
    """Passes on what the writers acknowledge; checks and kills in between.

    Args:
        scratch: where copies are opened; not on the device.
        is_slow: the machine is: all but the writing is done less often.
    """

    def __init__(
        self, databases: Sequence[Database], scratch: Path, seed: int, *, is_slow: bool
    ) -> None:
        self._databases = databases
        self._scratch = scratch
        self._random = random.Random(f"{seed}/sqlite")
        self._factor = SLOW_FACTOR if is_slow else 1
        self._check_at_s = self._due(CHECK_EVERY_S)
        self._kill_at_s = self._due(KILL_EVERY_S)

    def step(self) -> None:
        for database in self._databases:
            if not database.is_writing:
                database.start_writer()
        with selectors.DefaultSelector() as selector:
            for database in self._databases:
                selector.register(database, selectors.EVENT_READ)
            ready = [key.fileobj for key, _ in selector.select(WAIT_S)]
        for database in self._databases:
            if database in ready:
                database.take_words()
        if time.monotonic() > self._check_at_s:
            self._check_at_s = self._due(CHECK_EVERY_S)
            database = self._random.choice(self._databases)
            if database.acknowledged:
                database.check_beside_writer()
        if time.monotonic() > self._kill_at_s:
            self._kill_at_s = self._due(KILL_EVERY_S)
            database = self._random.choice(self._databases)
            database.kill_writer()
            if database.acknowledged:
                database.snapshot(self._scratch)

    def stop(self) -> None:
        for database in self._databases:
            database.end_writer()

    def verify(self) -> None:
        for database in self._databases:
            database.verify()

    def close(self) -> None:
        for database in self._databases:
            database.kill_writer()

    def _due(self, between_s: tuple[float, float]) -> float:
        return time.monotonic() + self._random.uniform(*between_s) * self._factor
