"""``obdsup status`` and ``obdsup events``: what the supervisor knows."""

from __future__ import annotations

import time

from obdsup.cli.device import client
from obdsup.cli.output import print_fields, print_json, print_table

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

__all__ = ["add_parsers"]


def status(args: argparse.Namespace) -> int:
    """``status``."""
    result = client(args).call("status")
    print_json(result) if args.json else print_fields(result)
    return 0


def events(args: argparse.Namespace) -> int:
    """``events``."""
    result = client(args).call("events", since=args.since)
    if args.json:
        print_json(result)
        return 0
    rows = result.get("events", []) if isinstance(result, dict) else result
    print_table(["ID", "TIME", "EVENT", "DEVICE", "DETAILS"], [_cells(row) for row in rows])
    return 0


def _cells(row: dict[str, Any]) -> list[object]:
    fields = row.get("fields") or {}
    details = " ".join(f"{key}={value}" for key, value in fields.items())
    name = row.get("event", row.get("name"))
    return [row.get("id"), _time_text(row.get("ts")), name, row.get("device"), details]


def _time_text(seconds: object) -> object:
    """Seconds since the epoch as UTC with milliseconds; anything else as it is."""
    if not isinstance(seconds, int | float):
        return seconds
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03d}Z"


def add_parsers(commands: Any, common: argparse.ArgumentParser) -> None:
    """Adds ``status`` and ``events``."""
    one = commands.add_parser(
        "status", parents=[common], help="supervisor, standbys, devices by phase"
    )
    one.set_defaults(run=status)
    log = commands.add_parser("events", parents=[common], help="what happened, oldest first")
    log.add_argument("--since", type=int, default=0, metavar="ID", help="only after this event")
    log.set_defaults(run=events)
