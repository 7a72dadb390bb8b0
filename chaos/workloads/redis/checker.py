"""A thread that loads and checks until it is stopped: what redis clients and readers share."""

from __future__ import annotations

import threading

from chaos.rig.latency import Operation

__all__ = ["ERRORS_UNTIL_GIVING_UP", "Checker"]

ERRORS_UNTIL_GIVING_UP = 20


class Checker(threading.Thread):
    """A checking thread; subclasses implement ``run``.

    ``operations``, ``errors`` (what failed) and ``wrong`` (what was read and should not have been)
    only grow, by appending: they may be read at any time.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.operations: list[Operation] = []
        self.errors: list[str] = []
        self.wrong: list[str] = []
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Asks it to end after the operation it is in."""
        self._stopping.set()
