"""``obdsup image repair``: a damaged writable layer opens again."""

from __future__ import annotations

import argparse
from typing import Any

from obdsup.cli.image.command import add_command
from obdsup.cli.output import print_json
from obdsup.image.repair import Repaired, repair_upper

__all__ = ["add"]

_SHOWN_RECORDS = 20


def add(commands: Any) -> None:
    """Adds ``repair``."""
    parser = add_command(
        commands,
        "repair",
        run_repair,
        "make a damaged writable layer open again",
        "  obdsup image repair upper.data upper.index\n\n"
        "Drops what can not be kept and says what; the files as they were are kept beside,\n"
        "with .orig behind their names. Changes nothing when the layer is sound.",
    )
    parser.add_argument("data", metavar="DATA")
    parser.add_argument("index", metavar="INDEX")


def run_repair(args: argparse.Namespace) -> int:
    """Repairs, and prints what was done."""
    done = repair_upper(args.data, args.index)
    if args.json:
        print_json({"data": args.data, "index": args.index, **_facts(done)})
    else:
        _print(args, done)
    return 0


def _facts(done: Repaired) -> dict[str, object]:
    return {
        "is_changed": done.is_changed,
        "records": done.record_cnt,
        "dropped_count": done.dropped_cnt,
        "dropped": [
            {"index_offset": at, "disk_range": [begin, end]} for at, begin, end in done.dropped
        ],
        "torn_bytes": done.torn_bytes,
        "headers_made": done.headers_made,
        "kept": done.kept,
    }


def _print(args: argparse.Namespace, done: Repaired) -> None:
    if not done.is_changed:
        print(f"{args.data}: sound, {done.record_cnt} records; nothing was changed")
        return
    print(f"{args.data}: opens again, {done.record_cnt} records")
    for path in done.headers_made:
        print(f"  header of {path} made again")
    if done.torn_bytes:
        print(f"  {done.torn_bytes} bytes of a torn record dropped")
    if done.dropped_cnt:
        print(f"  {done.dropped_cnt} records dropped: what was there before them shows again")
    for at, begin, end in done.dropped[:_SHOWN_RECORDS]:
        place = f": bytes {begin} to {end} of the disk" if end else ""
        print(f"    at {at}{place}")
    if done.dropped_cnt > _SHOWN_RECORDS:
        print(f"    … and {done.dropped_cnt - _SHOWN_RECORDS} more (--json lists them)")
    print(f"  kept: {', '.join(done.kept)}")
