"""The files of a report: pages, pictures, and an index, written whole or not at all."""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Sequence
from pathlib import Path

from chaos.campaign.outcome import CampaignOutcome
from chaos.report.figures import stall_figure, timeline_figure, to_png
from chaos.report.page import IndexEntry, campaign_page, index_page

__all__ = ["write"]


def write(outcomes: Sequence[CampaignOutcome], folder: Path) -> list[Path]:
    """Writes ``NAME.html``, ``NAME-timeline.png``, ``NAME-stalls.png`` and ``index.html``.

    Each file is complete under its name at any time. Campaigns of one name are told apart by their
    seed and, if need be, by a number. Returns the pages, the index first.

    Raises:
        OSError: a file can not be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = datetime.datetime.now(datetime.UTC)
    entries: list[IndexEntry] = []
    for outcome in outcomes:
        stem = _free_stem(outcome, {Path(entry.file_name).stem for entry in entries})
        _replace(folder / f"{stem}.html", campaign_page(outcome, made).encode())
        _replace(folder / f"{stem}-timeline.png", to_png(timeline_figure(outcome)))
        if outcome.faults:
            _replace(folder / f"{stem}-stalls.png", to_png(stall_figure(outcome)))
        entries.append(IndexEntry(outcome, f"{stem}.html"))
    index = folder / "index.html"
    _replace(index, index_page(entries, made).encode())
    return [index, *(folder / entry.file_name for entry in entries)]


def _free_stem(outcome: CampaignOutcome, taken: set[str]) -> str:
    plain = re.sub(r"[^A-Za-z0-9.-]+", "-", outcome.name).strip("-.") or "campaign"
    stems = [plain, f"{plain}-{outcome.seed}"]
    stems += [f"{plain}-{outcome.seed}-{number}" for number in range(2, len(taken) + 3)]
    return next(stem for stem in stems if stem not in taken and stem != "index")


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(data)
    temporary.replace(path)
