"""What Prometheus reads: a collector that looks at journals and memory when it is asked.

Nothing is counted between two scrapes, and no worker is asked. Labels are names of devices,
workers' states, releases and causes: no path, no address, no credential.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import CollectorRegistry

import obdsup
from obdsup.supervisor.death import Cause
from obdsup.supervisor.device import Device
from obdsup.supervisor.overview import Overview
from obdsup.supervisor.rollout_machine import RolloutState
from obdsup.supervisor.worker_machine import WorkerState

__all__ = ["CONTENT_TYPE", "exposition"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# name, counter of the journal, what it is
_COUNTERS = (
    ("recovered_commands", "recovered", "Commands in flight that a successor completed"),
    ("medium_errors", "medium_errors", "Commands that ended with a medium error"),
    (
        "poisoned_commands",
        "poisoned",
        "Commands answered with an error because workers died of them",
    ),
    ("ring_resets", "resets", "Resets of the ring because its journal could not be trusted"),
    ("foreign_resets", "foreign_resets", "Resets of the ring by another daemon"),
)
_COMMANDS = ("read", "write", "discard", "flush", "other")
_BYTES = ("read", "write")


def exposition(overview: Overview) -> bytes:
    """All metrics as text, in the format CONTENT_TYPE names. Blocks for a read of each journal."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(overview))
    return generate_latest(registry)


class _Collector:
    def __init__(self, overview: Overview) -> None:
        self._overview = overview

    def describe(self) -> list[Metric]:
        """Nothing: what there is depends on the devices."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All families, from one look at each journal."""
        devices = self._overview.devices.all()
        counters = {
            device.record.name: asdict(device.serving.journal.counters()) for device in devices
        }
        yield from _of_supervisor(self._overview)
        yield from _of_workers(self._overview)
        yield from _of_phases(devices)
        yield from _of_counters(counters)
        yield from _of_changes(self._overview, devices)


def _of_supervisor(overview: Overview) -> Iterator[Metric]:
    info = GaugeMetricFamily("obdsup_info", "The supervisor's release", labels=["release"])
    info.add_metric([obdsup.__version__], 1)
    yield info
    yield GaugeMetricFamily(
        "obdsup_state_failure",
        "1 while state.db can not be written",
        value=float(bool(overview.state_failure)),
    )
    rollout = overview.rollout()
    current = rollout.state if rollout else RolloutState.IDLE.value
    states = GaugeMetricFamily(
        "obdsup_rollout", "1 for the state of the last rollout of a release", labels=["state"]
    )
    for state in RolloutState:
        states.add_metric([state.value], float(state.value == current))
    yield states
    moved = len(rollout.moved) if rollout else 0
    yield GaugeMetricFamily("obdsup_rollout_moved", "Devices the last rollout moved", value=moved)
    events = CounterMetricFamily(
        "obdsup_events", "Events since this supervisor started", labels=["event", "level"]
    )
    for (name, level), count in sorted(overview.tally.events().items()):
        events.add_metric([name, level], count)
    yield events


def _of_workers(overview: Overview) -> Iterator[Metric]:
    workers = GaugeMetricFamily(
        "obdsup_workers", "Worker processes by state and release", labels=["state", "release"]
    )
    counts = Counter((w.state.value, w.release) for w in overview.fleet.workers())
    releases = {release for _, release in counts} | {obdsup.__version__}
    for state in (s for s in WorkerState if s is not WorkerState.GONE):
        for release in sorted(releases - {""} if state is not WorkerState.STARTING else releases):
            workers.add_metric([state.value, release], counts[state.value, release])
    yield workers
    ready, wanted = overview.fleet.standbys_ready(), overview.standbys_wanted
    yield GaugeMetricFamily("obdsup_standbys_ready", "Standbys that are ready", value=ready)
    yield GaugeMetricFamily("obdsup_standbys_wanted", "Standbys that should be", value=wanted)
    deaths = CounterMetricFamily(
        "obdsup_worker_deaths", "Workers that died since this start, by cause", labels=["cause"]
    )
    counted = overview.tally.deaths()
    for cause in Cause:
        deaths.add_metric([cause.value], counted.get(cause.value, 0))
    yield deaths


def _of_phases(devices: list[Device]) -> Iterator[Metric]:
    by_phase = GaugeMetricFamily("obdsup_devices", "Devices by phase", labels=["phase"])
    for phase, count in sorted(Counter(device.phase for device in devices).items()):
        by_phase.add_metric([phase], count)
    yield by_phase
    online = GaugeMetricFamily(
        "obdsup_device_online", "1 while a worker serves the device", labels=["device"]
    )
    for device in devices:
        online.add_metric([device.record.name], float(device.phase == "online"))
    yield online


def _of_counters(counters: dict[str, dict[str, int]]) -> Iterator[Metric]:
    for name, key, text in _COUNTERS:
        family = CounterMetricFamily(f"obdsup_{name}", text, labels=["device"])
        for device, values in counters.items():
            family.add_metric([device], values[key])
        yield family
    yield _by_kind("commands", "Commands completed, by kind", counters, _COMMANDS, "{}_cmds")
    yield _by_kind("bytes", "Bytes moved", counters, _BYTES, "{}_bytes")
    flight = GaugeMetricFamily("obdsup_in_flight", "Commands in flight", labels=["device"])
    for device, values in counters.items():
        flight.add_metric([device], values["in_flight"])
    yield flight


def _by_kind(
    name: str, text: str, counters: dict[str, dict[str, int]], kinds: tuple[str, ...], key: str
) -> Metric:
    family = CounterMetricFamily(f"obdsup_{name}", text, labels=["device", "kind"])
    for device, values in counters.items():
        for kind in kinds:
            family.add_metric([device, kind], values[key.format(kind)])
    return family


def _of_changes(overview: Overview, devices: list[Device]) -> Iterator[Metric]:
    takeovers = CounterMetricFamily(
        "obdsup_takeovers", "Take-overs since the device was made", labels=["device"]
    )
    stall = GaugeMetricFamily(
        "obdsup_last_stall_seconds", "Without a server at its last change", labels=["device"]
    )
    at = GaugeMetricFamily(
        "obdsup_last_change_timestamp_seconds", "When its server changed last", labels=["device"]
    )
    for device in devices:
        name = device.record.name
        takeovers.add_metric([name], device.record.row.takeovers)
        change: dict[str, Any] | None = overview.last_change(device)
        if change is not None:
            stall.add_metric([name], change["stall_ms"] / 1000)
            at.add_metric([name], change["at"])
    yield from (takeovers, stall, at)
