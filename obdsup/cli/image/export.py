"""``obdsup image export``: the merged disk as a raw file, or its digest."""

from __future__ import annotations

import argparse
from typing import Any

from obdsup.cli.image.command import add_command
from obdsup.cli.image.opening import image_files, refuse_own_files
from obdsup.cli.output import print_json
from obdsup.cli.progress import progress
from obdsup.image.export import disk_sha256, export_disk
from obdsup.image.opened import size_of
from obdsup.image.spec import file_paths

__all__ = ["add"]


def add(commands: Any) -> None:
    """Adds ``export``."""
    parser = add_command(
        commands,
        "export",
        run_export,
        "the merged virtual disk as a raw file or as its digest",
        "  obdsup image export config.v1.json -o disk.raw\n"
        "  obdsup image export config.v1.json --sha256",
    )
    parser.add_argument("image", metavar="CONFIG_OR_LAYER")
    parser.add_argument("-o", "--output", metavar="DISK", help="sparse raw file to write")
    parser.add_argument(
        "--sha256", action="store_true", help="print the digest of the whole disk, holes as zeros"
    )
    parser.add_argument("--force", action="store_true", help="replace DISK when it exists")


def run_export(args: argparse.Namespace) -> int:
    """Writes the virtual disk, or prints its digest."""
    if not args.output and not args.sha256:
        args.usage_error("give -o DISK, --sha256 or both")
    image = image_files(args.image)
    size_bytes = size_of(image)
    facts: dict[str, object] = {"image": args.image, "virtual_size_bytes": size_bytes}
    if args.output:
        refuse_own_files(args.output, file_paths(image))
        with progress("export") as report:
            export_disk(image, args.output, may_replace=args.force, report=report)
        facts["output"] = args.output
    if args.sha256:
        with progress("sha256") as report:
            facts["sha256"] = disk_sha256(image, report)
    if args.json:
        print_json(facts)
    elif args.sha256:
        print(facts["sha256"])
    else:
        print(f"{args.output}: {size_bytes} bytes")
    return 0
