"""The pictures of a campaign: drawn once, kept as SVG for the page and as PNG beside it."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from chaos.campaign.outcome import CampaignOutcome, FaultOutcome, WorkloadOutcome
from chaos.report.series import envelope, kinds_by_count, span_ns
from chaos.rig.latency import percentile

__all__ = ["Drawing", "stall_figure", "timeline_figure", "to_png", "to_svg"]

Drawing = Callable[[CampaignOutcome], Figure]

WIDTH_IN = 11.0
COLUMNS = 1100
PNG_DPI = 90
NO_WAIT_MS = 0.1  # a fault that nothing waited for is drawn here
INK, FAINT, GRID = "#1f2430", "#6b7280", "#e5e7eb"
FAULT_COLORS = (
    "#c2410c", "#7c3aed", "#0f766e", "#b91c1c", "#1d4ed8", "#a16207", "#be185d", "#15803d",
    "#4338ca", "#0369a1", "#9a3412", "#6d28d9", "#57534e", "#047857", "#9d174d", "#334155",
)  # fmt: skip
LOAD_COLORS = ("#2563eb", "#059669", "#d97706", "#9333ea", "#0891b2", "#e11d48")
STYLE: Any = {  # typed by matplotlib as a dict of each known key
    "svg.fonttype": "none",
    "svg.hashsalt": "obdsup",  # the same campaign gives the same file
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.edgecolor": GRID,
    "axes.labelcolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "text.color": INK,
}


def timeline_figure(outcome: CampaignOutcome) -> Figure:
    """Latency over time, a panel per workload: worst and mean; every fault marked below them."""
    kinds = kinds_by_count(outcome.faults)
    panels = max(1, len(outcome.workloads))
    panel_in, lanes_in = 2.6 if panels == 1 else 1.35, 0.22 * max(1, len(kinds))
    heights = [panel_in] * panels + [lanes_in]
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, sum(heights) + 0.7), layout="constrained")
        *tops, bottom = figure.subplots(
            panels + 1, 1, sharex=True, gridspec_kw={"height_ratios": heights}
        )
        for number, load in enumerate(outcome.workloads):
            _draw_latency(tops[number], load, span_ns(outcome), number)
        _draw_lanes(bottom, outcome, kinds)
    return figure


def stall_figure(outcome: CampaignOutcome) -> Figure:
    """How long applications waited at each fault: every fault a mark, median and p99 by kind."""
    kinds = kinds_by_count(outcome.faults)
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, 0.9 + 0.34 * max(1, len(kinds))), layout="constrained")
        axes = figure.subplots()
        for lane, kind in enumerate(kinds):
            faults = [fault for fault in outcome.faults if fault.kind == kind]
            _draw_distribution(axes, lane, faults, _fault_color(kinds, kind))
        _style_lanes(axes, kinds)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(_duration))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("longest operation of any workload at the fault; bar: median, dot: p99")
        axes.grid(axis="x", color=GRID, linewidth=0.8)
    return figure


def to_svg(figure: Figure) -> str:
    """The figure as an <svg> element that scales with its page."""
    buffer = io.StringIO()
    with rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    return re.sub(r'(<svg[^>]*?) width="[^"]*"([^>]*?) height="[^"]*"', r"\1\2", text, count=1)


def to_png(figure: Figure) -> bytes:
    """The same figure as a PNG."""
    buffer = io.BytesIO()
    with rc_context(STYLE):
        figure.savefig(buffer, format="png", dpi=PNG_DPI)
    return buffer.getvalue()


def _draw_latency(axes: Axes, load: WorkloadOutcome, span: tuple[int, int], number: int) -> None:
    color = LOAD_COLORS[number % len(LOAD_COLORS)]
    shown = envelope(load.slices, *span, COLUMNS)
    axes.fill_between(shown.at_s, shown.mean_ms, shown.worst_ms, color=color, alpha=0.25, lw=0)
    axes.plot(shown.at_s, shown.worst_ms, color=color, linewidth=0.8)
    axes.plot(shown.at_s, shown.mean_ms, color=color, linewidth=0.8, alpha=0.5)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(_duration))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(axis="x", length=0)
    axes.set_title(
        f"{load.name} on {load.device}: worst latency, and mean (pale)",
        loc="left", fontsize=9.5, color=color,
    )  # fmt: skip


def _draw_lanes(axes: Axes, outcome: CampaignOutcome, kinds: list[str]) -> None:
    begin_ns, end_ns = span_ns(outcome)
    for lane, kind in enumerate(kinds):
        color = _fault_color(kinds, kind)
        for has_landed, style in ((True, "-"), (False, ":")):
            at_s = [
                (fault.begun_ns - begin_ns) / 1e9
                for fault in outcome.faults
                if fault.kind == kind and fault.has_landed is has_landed
            ]
            axes.vlines(at_s, lane - 0.34, lane + 0.34, color=color, linewidth=1.0, linestyle=style)
    _style_lanes(axes, kinds)
    axes.set_xlim(0, max(1e-3, (end_ns - begin_ns) / 1e9))
    axes.set_xlabel("seconds; each mark is a fault (dotted: it hit nothing)")


def _draw_distribution(axes: Axes, lane: int, faults: list[FaultOutcome], color: str) -> None:
    stalls_ms = [max(fault.stall_ns / 1e6, NO_WAIT_MS) for fault in faults]
    axes.vlines(
        stalls_ms, lane - 0.3, lane + 0.3, color=color, linewidth=1.0,
        alpha=max(0.12, min(0.8, 12 / len(stalls_ms))),
    )  # fmt: skip
    axes.vlines(percentile(stalls_ms, 50), lane - 0.42, lane + 0.42, color=INK, linewidth=2.2)
    axes.plot(percentile(stalls_ms, 99), lane, "o", color=INK, markersize=4.5)


def _style_lanes(axes: Axes, kinds: list[str]) -> None:
    axes.set_yticks(range(len(kinds)), labels=kinds)
    axes.set_ylim(len(kinds) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.spines["left"].set_visible(False)


def _fault_color(kinds: list[str], kind: str) -> str:
    return FAULT_COLORS[kinds.index(kind) % len(FAULT_COLORS)]


def _duration(value_ms: float, _position: int = 0) -> str:
    if value_ms >= 1000:
        return f"{value_ms / 1000:g} s"
    return f"{value_ms:g} ms" if value_ms >= 1 else f"{value_ms * 1000:g} µs"
