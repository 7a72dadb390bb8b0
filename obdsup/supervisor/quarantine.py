"""When a device is not tried any more: too many deaths of its workers. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

__all__ = ["Quarantine"]


@dataclass(slots=True)
class Quarantine:
    """Counts the deaths of one device's workers.

    ``deaths`` in a row without a single completed command between them are enough, or more than
    ``burst_max`` of any kind in ``window_s`` seconds. 0 deaths: there is no quarantine. A worker
    that served for ``steady_s`` without having anything to do was no failure.
    """

    deaths: int = 20
    window_s: float = 60.0
    burst_max: int = 600  # what a campaign of kills causes stays far below
    steady_s: float = 10.0
    fruitless: int = 0
    _times: deque[float] = field(default_factory=deque)

    def died(self, now: float, *, made_progress: bool, served_s: float) -> str:
        """Notes a death at ``now`` (monotonic seconds).

        Args:
            now: when.
            made_progress: commands were completed since it took over.
            served_s: for how long it served; 0 when it died taking over.

        Returns:
            Why the device has to be left alone, or "".
        """
        is_fruitless = not made_progress and served_s < self.steady_s
        self.fruitless = self.fruitless + 1 if is_fruitless else 0
        self._times.append(now)
        while self._times and self._times[0] < now - self.window_s:
            self._times.popleft()
        if not self.deaths:
            return ""
        if self.fruitless >= self.deaths:
            return f"{self.fruitless} workers in a row died without completing a command"
        if len(self._times) > self.burst_max:
            return f"{len(self._times)} workers died in {self.window_s:g} s"
        return ""

    def lift(self) -> None:
        """Counts from zero again."""
        self.fruitless = 0
        self._times.clear()
