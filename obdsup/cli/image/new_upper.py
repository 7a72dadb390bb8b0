"""``obdsup image new-upper``: an empty writable layer."""

from __future__ import annotations

import argparse
from typing import Any

from obdsup.cli.image.command import add_command, show
from obdsup.cli.size import parse_device_size
from obdsup.format.lsmt_header import NULL_UUID, parse_uuid
from obdsup.format.upper_writer import create_upper

__all__ = ["add"]


def add(commands: Any) -> None:
    """Adds ``new-upper``."""
    parser = add_command(
        commands,
        "new-upper",
        run_new_upper,
        "make an empty writable layer",
        "  obdsup image new-upper --size 64G upper.data upper.index\n"
        "  obdsup image new-upper --sparse --size 64G upper.data upper.index",
    )
    parser.add_argument(
        "--size", metavar="SIZE", required=True, help="virtual size, as 64G or bytes"
    )
    parser.add_argument(
        "--sparse",
        action="store_true",
        help="each sector has its place in DATA: overwritten and discarded space is free again",
    )
    parser.add_argument("--uuid", metavar="UUID", help="of the layer (default: a random one)")
    parser.add_argument("--parent", metavar="UUID", help="of the layer below (default: none)")
    parser.add_argument("data", metavar="DATA")
    parser.add_argument("index", metavar="INDEX")
    parser.add_argument("--force", action="store_true", help="replace the files when they exist")


def run_new_upper(args: argparse.Namespace) -> int:
    """Makes an empty writable layer."""
    size_bytes = parse_device_size(args.size)
    parent = parse_uuid(args.parent) if args.parent else NULL_UUID
    uuid = create_upper(
        args.data,
        args.index,
        size_bytes,
        uuid=args.uuid or "",
        parent_uuid=parent,
        is_sparse=args.sparse,
        may_replace=args.force,
    )
    facts: dict[str, object] = {
        "data": args.data,
        "index": args.index,
        "virtual_size_bytes": size_bytes,
        "mode": "sparse" if args.sparse else "append",
        "uuid": uuid,
        "parent_uuid": parent,
    }
    show(args, facts)
    return 0
