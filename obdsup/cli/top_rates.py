"""What ``obdsup top`` shows, from two answers of the supervisor: pure.

Latency is Little's law: commands in flight on average / commands completed per second. In flight
is looked at a few times in an interval, so the figure is an estimate; a device that completed
nothing has none.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["LoadRow", "rates", "total"]


class LoadRow:
    """One device over one interval."""

    __slots__ = (
        "in_flight", "iops", "latency_ms", "name", "phase", "read_mbps", "recovered", "release",
        "stall_ms", "stalled", "takeovers", "worker", "write_mbps",
    )  # fmt: skip

    def __init__(self, name: str) -> None:
        self.name, self.phase, self.worker, self.release = name, "", "", ""
        self.in_flight = self.iops = self.read_mbps = self.write_mbps = 0.0
        self.latency_ms: float | None = None
        self.takeovers = 0
        self.stall_ms: float | None = None  # of the last change of its server
        self.stalled: float | None = None  # when that was, Unix time
        self.recovered = 0

    def to_json(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in self.__slots__}


def rates(
    before: dict[str, Any], after: dict[str, Any], in_flight: list[dict[str, int]]
) -> list[LoadRow]:
    """One row per device of the second answer, by name.

    Args:
        before, after: answers of operation ``top``.
        in_flight: commands in flight by device, looked at meanwhile.
    """
    seconds = (after["at_ns"] - before["at_ns"]) / 1e9
    earlier = {row["name"]: row for row in before["devices"]}
    looks = [*in_flight, _in_flight(after)]
    return [
        _row(row, earlier.get(row["name"]), seconds, [look.get(row["name"], 0) for look in looks])
        for row in sorted(after["devices"], key=lambda row: str(row["name"]))
    ]


def total(rows: list[LoadRow]) -> LoadRow:
    """The sum over all devices; latency is that of the mean command."""
    made = LoadRow("total")
    for row in rows:
        made.in_flight += row.in_flight
        made.iops += row.iops
        made.read_mbps += row.read_mbps
        made.write_mbps += row.write_mbps
        made.takeovers += row.takeovers
    made.latency_ms = made.in_flight / made.iops * 1000 if made.iops else None
    return made


def _in_flight(answer: dict[str, Any]) -> dict[str, int]:
    return {row["name"]: row["counters"]["in_flight"] for row in answer["devices"]}


def _row(
    row: dict[str, Any], before: dict[str, Any] | None, seconds: float, in_flight: list[int]
) -> LoadRow:
    made = LoadRow(row["name"])
    worker = row.get("worker") or {}
    made.phase, made.worker = row["phase"], worker.get("id", "")
    made.release, made.takeovers = worker.get("release", ""), row["takeovers"]
    made.in_flight = sum(in_flight) / len(in_flight)
    last = row.get("last_change") or {}
    made.stall_ms, made.stalled = last.get("stall_ms"), last.get("at")
    made.recovered = last.get("recovered", 0)
    if before is None or seconds <= 0:
        return made

    def rate(name: str) -> float:
        grown = row["counters"][name] - before["counters"][name]
        return max(int(grown), 0) / seconds  # a journal that was started over counts from zero

    made.iops = rate("completed")
    made.read_mbps, made.write_mbps = rate("read_bytes") / 1e6, rate("write_bytes") / 1e6
    made.latency_ms = made.in_flight / made.iops * 1000 if made.iops else None
    return made
