"""The operations ``upgrade``, ``upgrade.status`` and ``upgrade.abort``, and what a start goes on with.

| op | request | result |
|---|---|---|
| ``upgrade`` | ``to``: absolute path of a release; ``canary``, ``batch``, ``watch_s`` | the report, once it is done; progress lines meanwhile. ``HandoffError`` when it was rolled back |
| ``upgrade.status`` | - | the report |
| ``upgrade.abort`` | - | the report, once it is rolled back |
"""  # noqa: E501 - a table

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from obdsup.errors import ConfigError, ControlError
from obdsup.state import messages
from obdsup.state.database import Database
from obdsup.supervisor.control_server import Operation
from obdsup.supervisor.devices import Devices
from obdsup.supervisor.event_log import EventLog
from obdsup.supervisor.fleet import Fleet
from obdsup.supervisor.release import Release, find_release, full_path, own_path
from obdsup.supervisor.rollout import Rollout, RolloutOptions
from obdsup.supervisor.rollout_ground import RolloutGround
from obdsup.supervisor.settings import Settings

__all__ = ["RolloutOperations"]

COUNT_MAX = 100_000
WATCH_MAX_S = 24 * 3600.0
DEFAULTS = RolloutOptions()
Progress = Callable[[str], None]
log = logging.getLogger(__name__)


class RolloutOperations:
    """Owns the rollout; ``resume`` is called once, after adoption and before requests."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        events: EventLog,
        fleet: Fleet,
        devices: Devices,
    ) -> None:
        self._devices = devices
        self._events = events
        self._ground = RolloutGround(settings, database, fleet, devices, self._is_aborted)
        self._rollout = Rollout(self._ground, None, events.emit)

    def _is_aborted(self) -> bool:
        return self._rollout.is_aborted()

    def resume(self) -> None:
        """Takes up what state.db says; does not wait for any of it.

        Raises:
            StateError: its row can not be read.
        """
        self._rollout = Rollout(self._ground, self._ground.load(), self._events.emit)
        try:
            self._ground.keep_default_standbys()
        except ConfigError as error:
            log.error("the release of new devices is gone, ours is used: %s", error)
            self._devices.default_release = ""
        self._rollout.resume()

    def operations(self) -> dict[str, Operation]:
        """For the control server."""
        return {
            "upgrade": self._upgrade,
            "upgrade.status": lambda request, progress: self._report(),
            "upgrade.abort": self._abort,
        }

    def _upgrade(self, request: dict[str, Any], progress: Progress) -> object:
        options = RolloutOptions(
            canary=_count(request, "canary", DEFAULTS.canary),
            batch=_count(request, "batch", DEFAULTS.batch),
            watch_s=_seconds(request, "watch_s", DEFAULTS.watch_s),
        )
        target = find_release(_path(request.get("to")))
        _check_protocol(target)
        path, origin = full_path(target.path), full_path(self._devices.default_release)
        away = [d.record.name for d in self._devices.all() if self._pin(d) != path]
        if path == origin and not away and not self._rollout.is_under_way:
            return {**self._report(), "is_same": True, "version": target.version}
        progress(f"release {target.version} at {path}, {len(away)} devices")
        self._rollout.start(path, origin, options)
        self._rollout.wait(progress)
        return {**self._report(), "is_same": False, "version": target.version}

    def _abort(self, request: dict[str, Any], progress: Progress) -> object:
        self._rollout.abort()
        return self._report()

    def _pin(self, device: Any) -> str:
        return full_path(device.record.row.release)

    def _report(self) -> dict[str, object]:
        row = self._rollout.row
        pins = [(d.record.name, self._pin(d)) for d in self._devices.all()]
        return {
            "state": row.state,
            "target": row.target,
            "origin": row.origin,
            "options": row.options,
            "moved": list(row.moved),
            "left": [name for name, pin in pins if pin != row.target],
            "reason": row.reason,
            "started": row.started,
            "changed": row.changed,
            "release_of_new_devices": full_path(self._devices.default_release),
            "release_of_supervisor": own_path(),
        }


def _check_protocol(release: Release) -> None:
    """Before anything moves: devices could be handed to its workers, and not be taken back."""
    try:
        messages.agree(release.protocol())
    except ControlError as error:
        oldest = release.oldest_protocol_version or release.protocol_version
        raise ConfigError(
            f"release {release.version} at {release.path} speaks control protocol "
            f"{oldest} to {release.protocol_version}, this supervisor "
            f"{messages.oldest_version()} to {messages.PROTOCOL_VERSION}",
            hint="upgrade by way of a release between the two, or have the supervisor become that "
            "release (obdsup reload --to): it takes the devices over drained",
        ) from error


def _path(value: object) -> Path:
    if not isinstance(value, str) or not os.path.isabs(value) or "\0" in value:
        raise ConfigError(
            f"to: {value!r} is not an absolute path", hint="give the folder of a release"
        )
    return Path(value)


def _count(request: dict[str, Any], key: str, default: int) -> int:
    value = request.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= COUNT_MAX:
        raise ConfigError(f"{key}: expected a number from 1 to {COUNT_MAX}, found {value!r}")
    return value


def _seconds(request: dict[str, Any], key: str, default: float) -> float:
    value = request.get(key, default)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ConfigError(f"{key}: expected seconds, found {value!r}")
    if not 0 <= value <= WATCH_MAX_S:
        raise ConfigError(f"{key}: expected 0 to {WATCH_MAX_S} seconds, found {value!r}")
    return float(value)
