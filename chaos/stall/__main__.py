"""``python -m chaos.stall``: how long I/O stands still, as figures.

Every row is measured under a load whose every read is checked; a wrong answer, an error or a lost
command makes the run fail. Times in milliseconds: SIGKILL to the first completion by the successor
(its journal's clock), hand-overs and supervisor deaths as ringd's longest gap between completions.
With --only: "one" device, a "fleet" of many, or "hangs".
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chaos.rig.kills import Kind
from chaos.rig.latency import summarize
from chaos.rig.problem import REPO, RigError, say
from chaos.stall import fleet_figures
from chaos.stall.fleet_rig import FleetRig
from chaos.stall.hang_figures import HANGS, hangs
from chaos.stall.rig import LoadRig

MIXED_LOAD = "--qd 8 --read-percent 70 --max-sectors 16 --flush-percent 0"
# a process dies only when its fdatasync returns: with flushes the disk is in the figure
FLUSH_LOAD = "--qd 8 --read-percent 90 --max-sectors 16 --flush-percent 1"
READ_LOAD = "--qd 8 --read-percent 100 --discard-percent 0 --flush-percent 0 --max-sectors 16"
FLEET_LOAD = "--qd 1 --iops 20 --max-sectors 8 --flush-percent 0"
PERIOD_S = 0.2  # more than 60 deaths of one device in 10 s would meet the supervisor's back-off
HISTORIES = (0, 60_000, 180_000)
Row = dict[str, Any]
_LOAD_NAMES = {MIXED_LOAD: "mixed", FLUSH_LOAD: "flushes", READ_LOAD: "reads"}


def main(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    rows: list[Row] = []
    try:
        for row in _measure(options):
            rows.append(row)
            say(_line(row) if "stall_ms" in row else json.dumps(row))
    except RigError as error:
        say(f"stall: FAILED: {error}")
        return 1
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({"seed": options.seed, "rows": rows}, indent=2) + "\n")
    say(f"written: {options.json}")
    return 0


def _measure(options: argparse.Namespace) -> Iterator[Row]:
    if options.only in ("", "one"):
        yield from _one_device(options)
    if options.only in ("", "fleet") and options.fleet:
        yield from _fleet(options)
    if options.only in ("", "hangs") and options.hangs:
        for kind in HANGS:
            yield hangs(kind, options.hangs, options.hang_limit, options.seed)


def _fleet(options: argparse.Namespace) -> Iterator[Row]:
    with FleetRig(options.fleet, FLEET_LOAD) as rig:
        begin = {"devices": options.fleet}
        yield {**begin, "what": "processor", **fleet_figures.watch_share(rig)}
        yield {**begin, "what": "supervisor started", **fleet_figures.adoptions(rig, 5)}
        yield {**begin, "what": "all workers killed", **fleet_figures.all_killed(rig, 3)}
        yield {**begin, "what": "supervisor's memory", **fleet_figures.memory_mib(rig)}
    yield {**begin, "what": "checked", "commands": rig.commands}


def _one_device(options: argparse.Namespace) -> Iterator[Row]:
    yield _kills(options, Kind.WORKER, options.kills, 0, MIXED_LOAD)
    yield _kills(options, Kind.WORKER, options.history_kills, 0, FLUSH_LOAD)
    for history in HISTORIES:
        yield _kills(options, Kind.WORKER, options.history_kills, history, READ_LOAD)
    for history in HISTORIES:
        yield _hand_overs(options, history)
    yield _supervisor_deaths(options)
    yield _kills(options, Kind.BOTH, options.both_kills, 0, MIXED_LOAD)


def _kills(options: argparse.Namespace, kind: Kind, count: int, history: int, load: str) -> Row:
    stalls_ns = []
    recovered = hits = 0
    with LoadRig(history, load, options.seed) as rig:
        for _ in range(count):
            next_s = time.monotonic() + PERIOD_S
            rig.killer.wait_ready()
            landed = rig.killer.kill(kind)
            stalls_ns.append(landed.served_ns - landed.killed_ns)
            recovered += landed.recovered
            hits += landed.hit_in_flight
            time.sleep(max(0.0, next_s - time.monotonic()))
    if not hits and load != READ_LOAD:  # cached reads alone are rarely in flight for long
        raise RigError(f"none of {count} kills ({kind.value}) hit a command in flight")
    row = _row(f"{kind.value} killed", load, history, stalls_ns, rig)
    return {**row, "recovered_in_flight": recovered, "hit_in_flight": hits}


def _hand_overs(options: argparse.Namespace, history: int) -> Row:
    stalls_ns = []
    with LoadRig(history, READ_LOAD, options.seed) as rig:
        for _ in range(options.handovers):
            rig.killer.wait_ready()
            rig.gaps.take()
            begin_ns = time.monotonic_ns()
            rig.hand_over()
            stalls_ns.append(_longest_gap(rig, begin_ns))
    return _row("hand-over", READ_LOAD, history, stalls_ns, rig)


def _supervisor_deaths(options: argparse.Namespace) -> Row:
    """Longest gap around each supervisor's death, beside the same time without one."""
    stalls_ns, quiet_ns = [], []
    with LoadRig(0, MIXED_LOAD, options.seed) as rig:
        for _ in range(options.supervisor_kills):
            rig.killer.wait_ready()
            rig.gaps.take()
            begin_ns = time.monotonic_ns()
            rig.killer.kill(Kind.SUPERVISOR)
            stalls_ns.append(_longest_gap(rig, begin_ns))
            length_ns = time.monotonic_ns() - begin_ns
            begin_ns = time.monotonic_ns()
            time.sleep(length_ns / 1e9)  # as long, with nothing done to anyone
            quiet_ns.append(_longest_gap(rig, begin_ns))
    row = _row("supervisor killed", MIXED_LOAD, 0, stalls_ns, rig)
    return {**row, "without_kill_ms": summarize(quiet_ns).to_json()}


def _longest_gap(rig: LoadRig, begin_ns: int) -> int:
    """The longest gap since begin_ns; gaps below a millisecond count as none."""
    return max((end - start for start, end in rig.gaps.take() if end >= begin_ns), default=0)


def _row(what: str, load: str, history: int, stalls_ns: list[int], rig: LoadRig) -> Row:
    return {
        "what": what,
        "prior_writes": history,
        "load": load,
        "stall_ms": summarize(stalls_ns).to_json(),
        "commands": rig.report["commands"],
    }


def _line(row: Row) -> str:
    stall = row["stall_ms"]
    extra = f", {row['recovered_in_flight']} recovered" if "recovered_in_flight" in row else ""
    if "without_kill_ms" in row:
        extra = f", longest without a kill {row['without_kill_ms']['max']} ms"
    load = _LOAD_NAMES[row["load"]]
    return (
        f"{row['what']:18} {load:8} {row['prior_writes']:7} prior writes  n={stall['count']:<4} "
        f"p50 {stall['p50']:8.2f}  p99 {stall['p99']:8.2f}  max {stall['max']:8.2f} ms"
        f"  ({row['commands']} commands checked{extra})"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m chaos.stall", description=__doc__)
    add = parser.add_argument
    add("--kills", type=int, default=100, help="worker kills under a mixed load")
    add("--history-kills", type=int, default=30, help="worker kills per prior-writes row")
    add("--handovers", type=int, default=30, help="hand-overs per prior-writes row")
    add("--supervisor-kills", type=int, default=10)
    add("--both-kills", type=int, default=10)
    add("--fleet", type=int, default=100, help="devices of the fleet; 0: none")
    add("--hangs", type=int, default=10, help="hangs of each kind; 0: none")
    add("--hang-limit", type=float, default=5.0)
    add("--only", default="", choices=["one", "fleet", "hangs"])
    add("--seed", type=int, default=1)
    add("--json", type=Path, default=REPO / "out" / "stall.json")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
