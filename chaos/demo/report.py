"""The verdict: what happened, as a table for people and as JSON for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from chaos.rig.kills import Kind, LandedKill
from chaos.rig.latency import Operation, Summary, stall_ns, summarize

__all__ = ["Outcome", "print_table", "problems", "to_json"]

SHOWN_LINES = 10


@dataclass(slots=True)
class Outcome:
    """Everything a run found out; filled in as it goes."""

    seed: int = 0
    seconds: float = 0.0
    provider: str = ""
    provider_reason: str = ""
    kernel: str = ""
    kernel_log: str = "not read"
    planned: set[Kind] = field(default_factory=set)
    kills: list[LandedKill] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    sets: int = 0
    reads_direct: int = 0
    keys: int = 0
    commands: int = 0
    io_errors: list[str] = field(default_factory=list)
    lost_or_stale: list[str] = field(default_factory=list)
    container_restarts: int = 0

    def stalls(self, kind: Kind | None = None) -> Summary:
        """The longest wait of an application at each kill (of one kind)."""
        kills = [kill for kill in self.kills if kind in (None, kill.kind)]
        return summarize([stall_ns(self.operations, k.killed_ns, k.served_ns) for k in kills])

    def recovered(self) -> int:
        """In-flight commands the successors found in the journal and executed."""
        return sum(kill.recovered for kill in self.kills)

    def hits(self) -> int:
        """Kills that provably hit commands in flight."""
        return sum(kill.hit_in_flight for kill in self.kills)


def problems(outcome: Outcome, failure: str = "") -> list[str]:
    """Why the run did not show what it should; empty when it did.

    Args:
        failure: what kept the run from coming to its end, or "".
    """
    found = [failure] if failure else []
    for name, lines in (
        ("I/O errors", outcome.io_errors),
        ("lost or stale values", outcome.lost_or_stale),
    ):
        if lines:
            found.append(f"{len(lines)} {name}, not 0")
    if outcome.container_restarts:
        found.append(f"{outcome.container_restarts} container restarts, not 0")
    if not outcome.commands or not outcome.sets or not outcome.reads_direct:
        found.append(
            f"nothing was served: {outcome.commands} device commands, {outcome.sets} SETs, "
            f"{outcome.reads_direct} direct reads"
        )
    if not outcome.hits():
        found.append("no kill hit a command in flight: the fault never landed")
    for kind in Kind:
        if kind in outcome.planned and all(kill.kind is not kind for kill in outcome.kills):
            found.append(f"no kill of kind {kind.value} was carried out though it was planned")
    return found


def to_json(outcome: Outcome, failure: str = "") -> dict[str, object]:
    """The result as ``out/demo.json`` holds it. The keys up to ``kernel`` never change."""
    stalls = outcome.stalls()
    by_kind = {kind.value: outcome.stalls(kind).to_json() for kind in Kind}
    return {
        "kills": _kill_counts(outcome.kills),
        "commands": outcome.commands,
        "recovered_in_flight": outcome.recovered(),
        "io_errors": len(outcome.io_errors),
        "lost_or_stale": len(outcome.lost_or_stale),
        "container_restarts": outcome.container_restarts,
        "stall_ms": {"p50": stalls.p50, "p99": stalls.p99, "max": stalls.max, "by_kind": by_kind},
        "provider": outcome.provider,
        "kernel": outcome.kernel,
        "kernel_log": outcome.kernel_log,
        "kills_in_flight": outcome.hits(),
        "seed": outcome.seed,
        "seconds": round(outcome.seconds, 1),
        "redis": {"sets": outcome.sets, "keys": outcome.keys},
        "direct_reads": outcome.reads_direct,
        "operation_ms": _durations(outcome.operations).to_json(),
        "problems": problems(outcome, failure),
    }


def print_table(outcome: Outcome, console: Console, failure: str = "") -> None:
    """Prints the result, and the first lines of what went wrong if anything did."""
    console.print(_stall_table(outcome))
    console.print(_figures_table(outcome))
    for line in [*outcome.io_errors[:SHOWN_LINES], *outcome.lost_or_stale[:SHOWN_LINES]]:
        console.print(f"  {line}", markup=False, highlight=False)
    found = problems(outcome, failure)
    for problem in found:
        console.print(f"demo: FAILED: {problem}", markup=False, highlight=False)
    if not found:
        console.print("demo: passed", markup=False, highlight=False)


def _stall_table(outcome: Outcome) -> Table:
    table = Table(title="killed, and how long applications waited at most, per kill")
    for column in ("killed", "kills", "hit in flight", "recovered"):
        table.add_column(column, justify="left" if column == "killed" else "right")
    for column in ("p50 ms", "p99 ms", "max ms"):
        table.add_column(column, justify="right")
    for kind in Kind:
        kills = [kill for kill in outcome.kills if kill.kind is kind]
        stalls = outcome.stalls(kind)
        table.add_row(
            kind.value,
            str(len(kills)),
            str(sum(kill.hit_in_flight for kill in kills)),
            str(sum(kill.recovered for kill in kills)),
            *(f"{value:.1f}" for value in (stalls.p50, stalls.p99, stalls.max)),
        )
    total, usual = outcome.stalls(), _durations(outcome.operations)
    for name, summary, counts in (
        ("all", total, (len(outcome.kills), outcome.hits(), outcome.recovered())),
        ("(every operation)", usual, ("", "", "")),
    ):
        figures = (f"{value:.1f}" for value in (summary.p50, summary.p99, summary.max))
        table.add_row(name, *(str(count) for count in counts), *figures)
    return table


def _figures_table(outcome: Outcome) -> Table:
    table = Table(show_header=False)
    table.add_column("what")
    table.add_column("figure", justify="right")
    rows: list[tuple[str, object]] = [
        ("device commands served", f"{outcome.commands:,}"),
        ("in-flight commands recovered", f"{outcome.recovered():,}"),
        ("redis SETs acknowledged", f"{outcome.sets:,}"),
        ("direct reads verified", f"{outcome.reads_direct:,}"),
        ("I/O errors", len(outcome.io_errors)),
        ("lost or stale values", len(outcome.lost_or_stale)),
        ("container restarts", outcome.container_restarts),
        ("kernel log", outcome.kernel_log),
        ("provider", outcome.provider),
        ("kernel", outcome.kernel),
        ("seed", outcome.seed),
    ]
    for name, figure in rows:
        table.add_row(name, str(figure))
    return table


def _kill_counts(kills: Sequence[LandedKill]) -> dict[str, int]:
    return {kind.value: sum(kill.kind is kind for kill in kills) for kind in Kind}


def _durations(operations: Sequence[Operation]) -> Summary:
    return summarize([operation.ended_ns - operation.begun_ns for operation in operations])
