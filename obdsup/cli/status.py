"""``obdsup status``: on one screen, how the supervisor is, what is wrong and what to do next."""

from __future__ import annotations

import time

from obdsup.cli.output import print_json
from obdsup.state.control import SOCKET_NAME, ControlClient

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

__all__ = ["add_parser", "duration_text"]

PROBLEMS_SHOWN = 12
WIDTH = 11
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"))


def status(args: argparse.Namespace) -> int:
    """``status``."""
    result = ControlClient(f"{args.run_dir}/{SOCKET_NAME}").call("status")
    print_json(result) if args.json else print("\n".join(screen(result, time.time())))
    return 0


def screen(found: dict[str, Any], now: float) -> list[str]:
    """The lines for people.

    Args:
        found: what operation ``status`` answers; what an older supervisor leaves out is left out.
        now: Unix time, seconds.
    """
    started = found.get("started")
    since = f", up {duration_text(now - started)}" if isinstance(started, int | float) else ""
    lines = [f"obdsup {found.get('release', '')} supervisor, pid {found.get('pid')}{since}"]
    for name, text in (
        ("run", found.get("run_dir")),
        ("state", found.get("state_dir")),
        ("provider", f"{found.get('provider')}: {found.get('provider_reason')}"),
        ("devices", _counts(found.get("devices") or {}) or "none"),
        ("workers", _workers(found)),
        ("releases", _releases(found.get("releases") or [])),
        ("take-overs", found.get("takeovers")),
        ("rollout", _rollout(found.get("rollout"))),
    ):
        if text not in (None, ""):
            lines.append(f"  {name.ljust(WIDTH)}{text}")
    return [*lines, "", *_problems(found.get("problems") or [])]


def _counts(counts: dict[str, int]) -> str:
    parts = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    return f"{sum(counts.values())}: {parts}" if parts else ""


def _workers(found: dict[str, Any]) -> str:
    states: dict[str, int] = {}
    for worker in found.get("workers") or []:
        states[worker["state"]] = states.get(worker["state"], 0) + 1
    ready, wanted = found.get("standbys_ready"), found.get("standbys_wanted")
    return f"{_counts(states) or 'none'} ({ready} of {wanted} standbys ready)"


def _releases(rows: list[dict[str, Any]]) -> str:
    return ", ".join(
        f"{row['release'] or 'starting'} ({row['workers']} workers, {row['devices']} devices)"
        for row in rows
    )


def _rollout(row: dict[str, Any] | None) -> str:
    if not row:
        return ""
    text = f"{row['state'].replace('_', ' ')}, to {row['target'] or 'the own release'}"
    return f"{text}: {row['reason']}" if row.get("reason") else text


def _problems(problems: list[dict[str, str]]) -> list[str]:
    if not problems:
        return ["nothing is wrong"]
    lines = ["what is wrong, and what to do:"]
    for problem in problems[:PROBLEMS_SHOWN]:
        lines += [f"  {problem['what']}", f"    next: {problem['next']}"]
    if len(problems) > PROBLEMS_SHOWN:
        lines.append(f"  and {len(problems) - PROBLEMS_SHOWN} more: `obdsup --json status`")
    return lines


def duration_text(seconds: float) -> str:
    """``3 h``, ``4 min``, ``12 s``: the largest unit that fits."""
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{max(int(seconds), 0)} s"


def add_parser(commands: Any, common: argparse.ArgumentParser) -> None:
    """Adds ``status``."""
    one = commands.add_parser(
        "status", parents=[common], help="how it is, what is wrong and what to do, on one screen"
    )
    one.set_defaults(run=status)
