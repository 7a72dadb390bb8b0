"""Whether this process does its work: what the watchdog of systemd is fed with.

The loop's tick asks, so a loop that hangs feeds nothing. Beside it: the writer of state.db, which
must go round also while nothing is written or the disk is full, and the hang watch.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from obdsup.state.database import Database

__all__ = ["Health"]

WRITER_LATE_S = 20.0  # a disk that answers after seconds is slow, not a reason to start anew
log = logging.getLogger(__name__)


class Health:
    """Asked in the loop; blocks for nothing.

    Args:
        database: whose writer must turn.
        hang_watch: says what is wrong with the watch, or None.
    """

    def __init__(self, database: Database, hang_watch: Callable[[], str | None]) -> None:
        self._database = database
        self._hang_watch = hang_watch
        self._told = ""

    def problem(self, now: float | None = None) -> str:
        """What is wrong, "" when nothing is; a change is logged once."""
        late_s = (time.monotonic() if now is None else now) - self._database.turned_s
        found = self._hang_watch() or ""
        if late_s > WRITER_LATE_S:
            found = f"the writer of state.db has not turned for {late_s:.0f} s"
        if found != self._told:
            if found:
                log.error("supervisor.failed %s: systemd's watchdog is not fed", found)
            self._told = found
        return found
