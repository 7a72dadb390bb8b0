"""What those who look ask for: operations ``top``, ``top.in_flight`` and ``device.explain``, and
what ``status`` says beyond plain facts. Reads journals and memory; asks no worker, changes nothing.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import obdsup
from obdsup.errors import StateError
from obdsup.state import tables
from obdsup.state.database import Database
from obdsup.state.device import RolloutRow
from obdsup.supervisor.control_server import Operation
from obdsup.supervisor.device import Device
from obdsup.supervisor.device_report import device_report
from obdsup.supervisor.devices import Devices
from obdsup.supervisor.event_feed import EventFeed
from obdsup.supervisor.explain import DeviceFacts, explain
from obdsup.supervisor.fleet import Fleet
from obdsup.supervisor.problems import problems
from obdsup.supervisor.settings import Settings
from obdsup.supervisor.tally import Tally

__all__ = ["Overview"]

EVENTS_LOOKED_AT = 100


class Overview:
    """Looks at everything; safe from any thread."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        fleet: Fleet,
        devices: Devices,
        feed: EventFeed,
        tally: Tally,
    ) -> None:
        self._settings = settings
        self._database = database
        self.fleet = fleet
        self.devices = devices
        self._feed = feed
        self.tally = tally

    def operations(self) -> dict[str, Operation]:
        """The operations this module answers."""
        return {
            "top": self._top,
            "top.in_flight": self._in_flight,
            "device.explain": self._explain,
        }

    @property
    def standbys_wanted(self) -> int:
        return self._settings.standbys

    @property
    def state_failure(self) -> str:
        """Why state.db can not be written, "" when it can."""
        return self._database.failure

    def rollout(self) -> RolloutRow | None:
        """The last rollout; None also when state.db can not be read."""
        try:
            row: RolloutRow | None = self._database.read(tables.load_rollout)  # type: ignore[assignment]
        except StateError:
            return None
        return row

    def for_status(self) -> dict[str, object]:
        """``releases``, ``rollout`` and ``problems``: what ``status`` adds to plain facts."""
        rollout = self.rollout()
        found = problems(
            [self.facts(device, rollout) for device in self.devices.all()],
            standbys_ready=self.fleet.standbys_ready(),
            standbys_wanted=self.standbys_wanted,
            state_failure=self.state_failure,
            rollout=rollout,
            unclaimed=self.devices.unclaimed.copy(),
            rebuilt=self.devices.rebuilt.copy(),
        )
        return {
            "releases": self._releases(),
            "rollout": asdict(rollout) if rollout else None,
            "problems": [problem.to_json() for problem in found],
        }

    def facts(self, device: Device, rollout: RolloutRow | None = None) -> DeviceFacts:
        """What is known of a device, but for its events."""
        row, serving = device.record.row, device.serving
        counters, worker = serving.journal.counters(), serving.worker
        return DeviceFacts(
            name=row.name,
            life=device.state.value,
            service=serving.state.value,
            phase=device.phase,
            reason=serving.reason or row.reason,
            quarantine=row.quarantine,
            worker=f"{worker.id} (pid {worker.identity.pid})" if worker else "",
            release=worker.release if worker else "",
            pinned_release=row.release,
            is_foreign=row.options.is_foreign,
            in_flight=counters.in_flight,
            medium_errors=counters.medium_errors,
            poisoned=counters.poisoned,
            resets=counters.resets,
            foreign_resets=counters.foreign_resets,
            takeovers=row.takeovers,
            standbys_ready=self.fleet.standbys_ready(),
            standbys_wanted=self.standbys_wanted,
            state_failure=self.state_failure,
            rollout=rollout.state if rollout else "",
            rollout_reason=rollout.reason if rollout else "",
            is_moved_by_rollout=rollout is not None and row.name in rollout.moved,
            log_dir=str(self._settings.log_dir),
        )

    def last_change(self, device: Device) -> dict[str, object] | None:
        """When another worker began to serve it, and the stall; after a restart, from state.db."""
        change = self.tally.last_change(device.record.name)
        if change is not None:
            return change.to_json()
        last = device.record.row.last_takeover
        if last is None:
            return None
        return {"at": last.at, "kind": "takeover", "stall_ms": last.dur_ms,
                "recovered": last.recovered}  # fmt: skip

    def _releases(self) -> list[dict[str, object]]:
        workers: Counter[str] = Counter()
        serving: Counter[str] = Counter()
        for worker in self.fleet.workers():
            workers[worker.release] += 1
        for device in self.devices.all():
            server = device.serving.worker
            if server is not None:
                serving[server.release] += 1
        return [
            {"release": name, "workers": workers[name], "devices": serving[name]}
            for name in sorted(workers)
        ]

    # -- operations, each in the thread of its connection ------------------------------------------
    def _explain(self, request: dict[str, Any], progress: Callable[[str], None]) -> object:
        device = self.devices.get(request.get("name"))
        rows = self._feed.select(device=device.record.name, newest=EVENTS_LOOKED_AT)
        facts = self.facts(device, self.rollout())
        return explain(replace(facts, events=tuple(rows))).to_json()

    def _top(self, request: dict[str, Any], progress: Callable[[str], None]) -> object:
        devices = self.devices.all()
        rollout = self.rollout()
        return {
            "at_ns": time.monotonic_ns(),
            "pid": os.getpid(),
            "release": obdsup.__version__,
            "devices": [
                {
                    **device_report(device),
                    "counters": asdict(device.serving.journal.counters()),
                    "last_change": self.last_change(device),
                }
                for device in devices
            ],
            "workers": [
                {
                    "id": worker.id,
                    "pid": worker.identity.pid,
                    "state": worker.state.value,
                    "release": worker.release,
                }
                for worker in self.fleet.workers()
            ],
            "standbys_ready": self.fleet.standbys_ready(),
            "standbys_wanted": self.standbys_wanted,
            "rollout": {"state": rollout.state, "target": rollout.target} if rollout else None,
        }

    def _in_flight(self, request: dict[str, Any], progress: Callable[[str], None]) -> object:
        return {
            device.record.name: device.serving.journal.counters().in_flight
            for device in self.devices.all()
        }
