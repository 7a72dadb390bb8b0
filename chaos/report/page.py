"""The page of one campaign, and the index of several: one file each, nothing is fetched."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass

import jinja2
from markupsafe import Markup

from chaos.campaign.outcome import CampaignOutcome
from chaos.report.figures import stall_figure, timeline_figure, to_svg
from chaos.report.rows import fault_rows, load_rows, tiles

__all__ = ["IndexEntry", "campaign_page", "index_page"]

SHOWN_FINDINGS = 200

_templates = jinja2.Environment(
    loader=jinja2.PackageLoader("chaos.report", "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One campaign and the file name of its page, which lies beside the index."""

    outcome: CampaignOutcome
    file_name: str


def campaign_page(outcome: CampaignOutcome, made: datetime.datetime) -> str:
    """The HTML of one campaign; whatever findings hold is escaped."""
    found = outcome.findings
    findings = {
        "I/O errors": found.io_errors,
        "lost": found.lost,
        "stale": found.stale,
        "misplaced": found.misplaced,
        "corrupt": found.corrupt,
        "kernel complaints": outcome.kernel_complaints,
        "faults with a wrong consequence": [
            f"{fault.kind} on {fault.device}: {line}"
            for fault in outcome.faults
            for line in fault.wrong
        ],
    }
    return _templates.get_template("campaign.html.j2").render(
        outcome=outcome,
        made=made,
        seconds=(outcome.ended_ns - outcome.begun_ns) / 1e9,
        problems=outcome.problems(),
        tiles=tiles(outcome),
        timeline=Markup(to_svg(timeline_figure(outcome))),
        stalls=Markup(to_svg(stall_figure(outcome))) if outcome.faults else None,
        fault_rows=fault_rows(outcome),
        load_rows=load_rows(outcome),
        findings={name: lines for name, lines in findings.items() if lines},
        shown=SHOWN_FINDINGS,
        faults=outcome.faults,
        begin_ns=outcome.begun_ns,
    )


def index_page(entries: Sequence[IndexEntry], made: datetime.datetime) -> str:
    """The HTML that leads to the pages of several campaigns."""
    return _templates.get_template("index.html.j2").render(
        entries=[(entry, tiles(entry.outcome), entry.outcome.problems()) for entry in entries],
        made=made,
    )
