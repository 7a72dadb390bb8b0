"""``obdsup image diff``: where two disks differ."""

from __future__ import annotations

import argparse
from typing import Any

from obdsup.cli.image.command import add_command
from obdsup.cli.image.opening import disk_or_image
from obdsup.cli.output import print_fields, print_json
from obdsup.cli.progress import progress
from obdsup.format.config import ImageConfig
from obdsup.image.diff import Difference, compare_disks
from obdsup.image.owners import files_in

__all__ = ["add"]

_SHOWN_RANGES = 20
_SHOWN_FILES = 50
EXIT_DIFFERENT = 1


def add(commands: Any) -> None:
    """Adds ``diff``."""
    parser = add_command(
        commands,
        "diff",
        run_diff,
        "where the disks of two images differ",
        "  obdsup image diff old/config.v1.json new/config.v1.json\n"
        "  obdsup image diff layer.obd merged.obd --json\n"
        "  obdsup image diff --raw config.v1.json disk.raw\n\n"
        "Compares what is read, not how it is stored; names the files of an ext4 there.\n"
        "Exit code 0: the same, 1: they differ.",
    )
    parser.add_argument("left", metavar="A", help="config or layer")
    parser.add_argument("right", metavar="B", help="config or layer")
    parser.add_argument("--raw", action="store_true", help="B is a raw disk, file or device")


def run_diff(args: argparse.Namespace) -> int:
    """Prints the ranges; the exit code says whether there are any."""
    left = disk_or_image(args.left, is_raw=False)
    right = disk_or_image(args.right, is_raw=args.raw)
    with progress("diff") as report:
        found = compare_disks(left, right, report=report)
    files: dict[str, dict[str, int] | None] = {}
    if not found.is_equal:
        for name, disk in (("left", left), ("right", right)):
            files[name] = files_in(disk, found.ranges) if isinstance(disk, ImageConfig) else None
    if args.json:
        print_json(_facts(args, found) | {"ranges": found.ranges, "files": files})
    else:
        _print(args, found)
        _print_files(files.get("left") or {}, files.get("right") or {})
    return 0 if found.is_equal else EXIT_DIFFERENT


def _facts(args: argparse.Namespace, found: Difference) -> dict[str, object]:
    return {
        "left": args.left,
        "right": args.right,
        "is_equal": found.is_equal,
        "left_bytes": found.left_bytes,
        "right_bytes": found.right_bytes,
        "differing_bytes": found.differing_bytes,
        "range_count": len(found.ranges),
    }


def _print_files(left: dict[str, int], right: dict[str, int]) -> None:
    """A file that was changed has blocks on both sides, a new or moved one on its own."""
    paths = sorted(left.keys() | right.keys())
    for path in paths[:_SHOWN_FILES]:
        print(f"  A {left.get(path, 0):>10}  B {right.get(path, 0):>10}  {path}")
    if len(paths) > _SHOWN_FILES:
        print(f"  … and {len(paths) - _SHOWN_FILES} more (--json lists them)")


def _print(args: argparse.Namespace, found: Difference) -> None:
    print_fields({name.replace("_", " "): value for name, value in _facts(args, found).items()})
    for begin, end in found.ranges[:_SHOWN_RANGES]:
        print(f"  bytes {begin} to {end}  ({end - begin})")
    if len(found.ranges) > _SHOWN_RANGES:
        print(f"  … and {len(found.ranges) - _SHOWN_RANGES} more (--json lists them)")
