"""The verdict of campaigns in a terminal: a row for each, and what went wrong."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from chaos.campaign.outcome import CampaignOutcome
from chaos.rig.latency import summarize

__all__ = ["print_summary"]

SHOWN_LINES = 10


def print_summary(outcomes: Sequence[CampaignOutcome], console: Console) -> None:
    """Prints the table, the first findings, and a last line per campaign: passed or why not."""
    table = Table(title="campaigns")
    table.add_column("campaign")
    for column in ("faults", "workers died", "recovered", "commands", "stall p50/p99/max ms"):
        table.add_column(column, justify="right")
    table.add_column("errors lost stale misplaced corrupt restarts kernel", justify="right")
    for outcome in outcomes:
        table.add_row(*_cells(outcome))
    console.print(table)
    for outcome in outcomes:
        found = outcome.findings
        for lines in (found.io_errors, found.lost, found.stale, found.misplaced, found.corrupt):
            for line in lines[:SHOWN_LINES]:
                console.print(f"  {outcome.name}: {line}", markup=False, highlight=False)
        for line in outcome.kernel_false_alarms[:SHOWN_LINES]:
            note = f"  {outcome.name}: said by the kernel, and not so: {line}"
            console.print(note, markup=False, highlight=False)
        problems = outcome.problems()
        if outcome.is_overlapping:
            note = f"{outcome.name}: {outcome.overlapped()} faults landed on top of each other"
            console.print(note, markup=False, highlight=False)
        verdict = "passed" if not problems else "FAILED: " + "; ".join(problems[:SHOWN_LINES])
        console.print(f"{outcome.name}: {verdict}", markup=False, highlight=False)


def _cells(outcome: CampaignOutcome) -> list[str]:
    stall = summarize([fault.stall_ns for fault in outcome.faults])
    found = outcome.findings
    zeros = (
        len(found.io_errors), len(found.lost), len(found.stale), len(found.misplaced),
        len(found.corrupt), found.container_restarts, len(outcome.kernel_complaints),
    )  # fmt: skip
    return [
        f"{outcome.name} ({outcome.provider}, seed {outcome.seed})",
        f"{len(outcome.faults):,}",
        f"{outcome.worker_kills():,}",
        f"{outcome.in_flight_recovered():,}",
        f"{outcome.commands:,}",
        f"{stall.p50:.1f} / {stall.p99:.1f} / {stall.max:.1f}",
        " ".join(str(count) for count in zeros),
    ]
