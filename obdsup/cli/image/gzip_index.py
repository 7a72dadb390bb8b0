"""``obdsup image gzip-index``: where inflating a tar.gz may begin, for a turboOCI layer."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from obdsup.cli.image.command import add_command, show
from obdsup.cli.progress import progress
from obdsup.image.gzip_index import write_gzip_index

__all__ = ["add"]


def add(commands: Any) -> None:
    """Adds ``gzip-index``."""
    parser = add_command(
        commands,
        "gzip-index",
        run_gzip_index,
        "index a tar.gz, so that a turboOCI layer can read it at random",
        "  obdsup image gzip-index layer.tar.gz -o gzip.meta\n\n"
        "Files of several gzip members are indexed to their end, and every checksum is compared.",
    )
    parser.add_argument("gzip", metavar="TARGZ")
    parser.add_argument("-o", "--output", metavar="INDEX", required=True)
    parser.add_argument("--force", action="store_true", help="replace INDEX when it exists")


def run_gzip_index(args: argparse.Namespace) -> int:
    """Writes the index."""
    with progress("index") as report:
        done = write_gzip_index(args.gzip, args.output, may_replace=args.force, report=report)
    names = {"plain_bytes": "content_bytes", "point_cnt": "points", "member_cnt": "members"}
    facts = {names.get(name, name): value for name, value in asdict(done).items()}
    show(args, {"index": args.output, **facts})
    return 0
