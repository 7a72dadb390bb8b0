"""After an emergency: devices that share a worker only because many were lost at once are moved
apart, one hand-over at a time; a worker whose devices stay closes the images of all others.
"""

from __future__ import annotations

import logging
import threading
import time

from obdsup.errors import ObdError
from obdsup.supervisor.devices import Devices
from obdsup.supervisor.event_log import EventLog
from obdsup.supervisor.fleet import Fleet
from obdsup.supervisor.placement import Seat, is_over_full, next_move

__all__ = ["Spreading"]

TURN_S = 0.25
QUIET_S = 1.0  # take-overs come first: nothing is moved until none was asked for so long
AGAIN_S = 10.0  # after a move that failed
log = logging.getLogger(__name__)


class Spreading:
    """One thread from ``start`` to the end of the process."""

    def __init__(self, events: EventLog, fleet: Fleet, devices: Devices) -> None:
        self._events = events
        self._fleet = fleet
        self._devices = devices
        self._failed: dict[str, float] = {}  # device: monotonic, not to be tried again before

    def start(self) -> None:
        """Begins to look."""
        threading.Thread(target=self._run, name="spreading", daemon=True).start()

    def _run(self) -> None:
        while True:
            time.sleep(TURN_S)
            try:
                self._turn()
            except Exception:
                # A bug: devices stay where they are, and are served.
                log.exception("spreading failed")

    def _turn(self) -> None:
        if self._fleet.quiet_s() < QUIET_S:
            return
        seats = self._fleet.seats()
        now = time.monotonic()
        self._failed = {name: at for name, at in self._failed.items() if at > now}
        name = next_move(seats, frozenset(self._failed))
        if name is not None:
            self._move(name, next(s for s in seats if name in (one.name for one in s.lodgers)))
            return
        for seat in seats:
            if not seat.is_settled and not is_over_full(seat):
                self._fleet.settle(seat.worker_id)

    def _move(self, name: str, source: Seat) -> None:
        try:
            self._devices.get(name).serving.hand_over()
        except ObdError as error:  # gone, just lost again, or no standby: others may still move
            log.info("device %s stays on %s for now: %s", name, source.worker_id, error)
            self._failed[name] = time.monotonic() + AGAIN_S
            return
        self._events.emit(
            "worker.spread", name, worker=source.worker_id, left=len(source.lodgers) - 1
        )
