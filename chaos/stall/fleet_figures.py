"""Figures of a fleet: all workers killed at once, a supervisor that starts, what it takes to hold.

Each is measured on the whole fleet under its loads; a wrong answer of any device fails the run.
"""

from __future__ import annotations

import os
import re
import signal
import statistics
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from chaos.rig.node import wait_until
from chaos.rig.problem import RigError
from chaos.rig.supervision import stop_supervisor
from chaos.stall.fleet_rig import FleetRig

__all__ = ["adoptions", "all_killed", "memory_mib", "watch_share"]

PATIENCE_S = 120.0
LOOK_S = 0.002
WATCHED_S = 20.0
KIB_PER_MIB = 1024


def all_killed(rig: FleetRig, rounds: int) -> dict[str, Any]:
    """Kills every worker at the same moment; until each device has published a completion again.

    Returns:
        Seconds until the last device is served, and until half of them are: medians of the
        rounds; and the longest round.
    """
    last_s, median_s = [], []
    for _ in range(rounds):
        rig.wait_calm()
        before = rig.counters()
        with ExitStack() as stack:
            kills = [stack.enter_context(worker.held()) for worker in rig.workers().values()]
            begun_ns = time.monotonic_ns()
            for kill in kills:
                kill(signal.SIGKILL)
        served_ns: dict[str, int] = {}
        deadline = time.monotonic() + PATIENCE_S
        while len(served_ns) < len(rig.names):
            for name, counters in rig.counters().items():
                is_new = counters.owner_generation > before[name].owner_generation
                if is_new and counters.first_publish_ns > begun_ns:
                    served_ns.setdefault(name, counters.first_publish_ns)
            if time.monotonic() > deadline:
                raise RigError(f"{len(rig.names) - len(served_ns)} devices are not served again")
            time.sleep(LOOK_S)
        times = sorted((ns - begun_ns) / 1e9 for ns in served_ns.values())
        last_s.append(times[-1])
        median_s.append(statistics.median(times))
    return {
        "rounds": rounds,
        "all_served_s": round(statistics.median(last_s), 3),
        "half_served_s": round(statistics.median(median_s), 3),
        "longest_s": round(max(last_s), 3),
    }


def adoptions(rig: FleetRig, rounds: int) -> dict[str, Any]:
    """Kills the supervisor, starts it, and waits until it says that it serves every device.

    Returns:
        Seconds from its start to the adoption of the last device, by its own events: without what
        Python takes to start, and with it.
    """
    from_start_s, from_exec_s = [], []
    for _ in range(rounds):
        rig.wait_calm()
        stop_supervisor(rig.node)
        spawned_s = time.time()
        rig.node.start_supervisor()
        wait_until(rig.node.is_answering, PATIENCE_S, "an answer of the supervisor")
        wait_until(lambda: _online(rig) == len(rig.names), PATIENCE_S, "all devices online")
        rows = [row for row in _newest(rig) if row["ts"] >= spawned_s]
        started_s = next(row["ts"] for row in rows if row["event"] == "supervisor.started")
        adopted_s = [row["ts"] for row in rows if row["event"] == "ring.adopted"]
        if len(adopted_s) != len(rig.names):
            raise RigError(f"{len(adopted_s)} of {len(rig.names)} devices were adopted")
        from_start_s.append(max(adopted_s) - started_s)
        from_exec_s.append(max(adopted_s) - spawned_s)
    return {
        "rounds": rounds,
        "adopted_s": round(statistics.median(from_start_s), 3),
        "with_python_s": round(statistics.median(from_exec_s), 3),
        "longest_s": round(max(from_start_s), 3),
    }


def _online(rig: FleetRig) -> int:
    return int(rig.node.ask("status")["devices"].get("online", 0))


def _newest(rig: FleetRig) -> list[dict[str, Any]]:
    return list(rig.node.ask("events", newest=len(rig.names) * 10))


def memory_mib(rig: FleetRig) -> dict[str, float]:
    """Memory of the supervisor: what is its own alone, and its share of everything."""
    text = Path(f"/proc/{rig.node.supervisor().pid}/smaps_rollup").read_text()
    kib = {key: int(value) for key, value in re.findall(r"^(\w+):\s+(\d+) kB", text, re.M)}
    private = kib["Private_Clean"] + kib["Private_Dirty"]
    return {
        "private_mib": round(private / KIB_PER_MIB, 1),
        "pss_mib": round(kib["Pss"] / KIB_PER_MIB, 1),
        "rss_mib": round(kib["Rss"] / KIB_PER_MIB, 1),
    }


def watch_share(rig: FleetRig) -> dict[str, float]:
    """Shares of one processor: the hang watch's thread, and the whole supervisor."""
    before, cpu_s = rig.node.ask("hangs"), _cpu_s(rig)
    begun_s = time.monotonic()
    time.sleep(WATCHED_S)
    after, spent_s = rig.node.ask("hangs"), _cpu_s(rig) - cpu_s
    took_s = time.monotonic() - begun_s
    return {
        "watch": round((after["cpu_s"] - before["cpu_s"]) / took_s, 4),
        "supervisor": round(spent_s / took_s, 4),
        "looks_per_s": round((after["looks"] - before["looks"]) / took_s, 2),
    }


def _cpu_s(rig: FleetRig) -> float:
    stat = Path(f"/proc/{rig.node.supervisor().pid}/stat").read_text().rpartition(")")[2].split()
    return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")
