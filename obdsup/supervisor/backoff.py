"""When to try again: at once after an ordinary death, later and later in a crash loop. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

__all__ = ["Backoff"]


@dataclass(slots=True)
class Backoff:
    """Counts failures of one device (or of standby starts) and says how long to wait.

    A worker that died after it had published commands made progress; only deaths without progress
    count towards the loop, or more than ``burst_max`` deaths of any kind in ``window_s``. Waits
    grow from ``first_s`` by doubling up to ``longest_s``. ``jitter`` in [0, 1) is given by the
    caller; it stretches a wait by up to a half so that devices do not try in step.
    """

    free_failures: int = 3
    first_s: float = 0.1
    longest_s: float = 15.0
    burst_max: int = 60  # twice the 2,000 kills in ten minutes that a campaign makes
    window_s: float = 10.0
    fruitless: int = 0
    _deaths: deque[float] = field(default_factory=deque)

    def failed(self, now: float, jitter: float, *, made_progress: bool = False) -> float:
        """Notes a failure at ``now`` (monotonic seconds); returns the wait in seconds, 0: none."""
        self.fruitless = 0 if made_progress else self.fruitless + 1
        self._deaths.append(now)
        while self._deaths and self._deaths[0] < now - self.window_s:
            self._deaths.popleft()
        excess = max(self.fruitless - self.free_failures, len(self._deaths) - self.burst_max)
        if excess <= 0:
            return 0.0
        wait = min(self.first_s * 2.0 ** min(excess - 1, 20), self.longest_s)
        return wait * (1.0 + jitter / 2)

    def succeeded(self) -> None:
        """Ends a row of fruitless failures."""
        self.fruitless = 0
