"""``obdsup events``: what happened. The last ones on a terminal, followed with ``--follow``."""

from __future__ import annotations

import sys
import time

from obdsup.cli.output import print_json, print_table
from obdsup.errors import ConfigError, ControlError
from obdsup.state.control import SOCKET_NAME, ControlClient

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from typing import Any

__all__ = ["add_parser", "details", "print_events", "time_text"]

NEWEST_ON_A_TERMINAL = 50
NEWEST_FOLLOWED = 10
WAIT_S = 20.0
RETRY_S = 0.5

EXAMPLES = """examples:
  obdsup events                              the last 50 on a terminal, all in a pipe
  obdsup events --follow --device web        go on with what happens to one device
  obdsup events --event 'takeover.*' --newest 5
  obdsup --json events --since 1200          for programs; with --follow one line each
"""


def events(args: argparse.Namespace) -> int:
    """``events``."""
    if args.follow:
        follow(args)
    result = _client(args).call("events", **_wanted(args))
    print_json(result) if args.json else print_events(result)
    return 0


def follow(args: argparse.Namespace) -> None:
    """Prints events as they happen, until it is interrupted; survives the supervisor's restart."""
    import json

    for row in _followed(args):
        if args.json:
            print(json.dumps(row, sort_keys=True), flush=True)
        else:
            cells = (str(cell or "-") for cell in _cells(row)[1:])
            print("  ".join(cells), flush=True)


def _followed(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    wanted = _wanted(args)
    rows = _client(args).call("events", **wanted)  # no supervisor at all: an error, at once
    last = args.since or 0
    if not rows:
        newest = _client(args).call("events", newest=1)
        last = max(last, newest[-1]["id"] if newest else 0)
    is_lost = False
    while True:
        for row in rows:
            last = int(row["id"])
            yield row
        wanted.update(since=last, newest=0, wait_s=WAIT_S)
        try:
            if is_lost or not rows:  # it may also have come back unnoticed, between two calls
                last = wanted["since"] = _still_valid(args, last)
            rows = _client(args).call("events", **wanted)
            is_lost = False
        except ControlError as error:
            if not is_lost:
                print(f"obdsup: {error.what}: waiting for it", file=sys.stderr)
            is_lost, rows = True, []
            time.sleep(RETRY_S)


def _still_valid(args: argparse.Namespace, last: int) -> int:
    """The number to go on from; 0 when state.db was made anew and counts from the beginning."""
    newest = _client(args).call("events", newest=1)
    return last if newest and newest[-1]["id"] >= last else 0


def _client(args: argparse.Namespace) -> ControlClient:
    return ControlClient(f"{args.run_dir}/{SOCKET_NAME}")


def _wanted(args: argparse.Namespace) -> dict[str, Any]:
    newest = args.newest
    if newest is None and args.since is None:
        if args.follow:
            newest = NEWEST_FOLLOWED
        elif sys.stdout.isatty() and not args.json:
            newest = NEWEST_ON_A_TERMINAL
    if newest is not None and newest <= 0:
        raise ConfigError(f"--newest {newest} is no number of events", hint="1 to 5000")
    return {"since": args.since or 0, "newest": newest or 0, "device": args.device,
            "pattern": args.event}  # fmt: skip


def print_events(rows: list[dict[str, Any]]) -> None:
    """As a table."""
    print_table(["ID", "TIME", "EVENT", "DEVICE", "DETAILS"], [_cells(row) for row in rows])


def details(fields: dict[str, Any]) -> str:
    """``key=value`` pairs on one line."""
    return " ".join(f"{key}={value}" for key, value in fields.items()).replace("\n", " ")


def time_text(seconds: object) -> object:
    """Seconds since the epoch as UTC with milliseconds; anything else as it is."""
    if not isinstance(seconds, int | float):
        return seconds
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03d}Z"


def _cells(row: dict[str, Any]) -> list[object]:
    return [row.get("id"), time_text(row.get("ts")), row.get("event"), row.get("device"),
            details(row.get("fields") or {})]  # fmt: skip


def add_parser(commands: Any, common: argparse.ArgumentParser) -> None:
    """Adds ``events``."""
    import argparse

    one = commands.add_parser(
        "events",
        parents=[common],
        help="what happened, and what happens (--follow)",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = one.add_argument
    add("--follow", "-f", action="store_true", help="go on with what happens, until Ctrl-C")
    add("--newest", type=int, metavar="N", help="only the last N (50 on a terminal)")
    add("--since", type=int, metavar="ID", help="only after this event")
    add("--device", default="", metavar="NAME", help="only of this device")
    add("--event", default="", metavar="PATTERN", help="only of this kind, e.g. 'takeover.*'")
    one.set_defaults(run=events)
