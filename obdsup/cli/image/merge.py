"""``obdsup image merge``: one layer of a whole stack."""

from __future__ import annotations

import argparse
from typing import Any

from obdsup.cli.image.command import add_command
from obdsup.cli.image.layer_options import add_layer_options, layer_options, show_layer
from obdsup.cli.progress import progress
from obdsup.image.commit import write_layer
from obdsup.image.merge import sources_of

__all__ = ["add"]


def add(commands: Any) -> None:
    """Adds ``merge``."""
    parser = add_command(
        commands,
        "merge",
        run_merge,
        "make one layer of all layers of an image",
        "  obdsup image merge config.v1.json -o merged.obd --zfile lz4\n\n"
        "The layer alone reads as the whole image, its writable layer included, if it has one.",
    )
    parser.add_argument("config", metavar="CONFIG")
    add_layer_options(parser, parent_of="the bottom layer")


def run_merge(args: argparse.Namespace) -> int:
    """Writes the layer."""
    options = layer_options(args, overwrites_header=False, keeps_tags=True)
    sources = sources_of(args.config, with_upper=True)
    with progress("merge") as report:
        layer = write_layer(sources, args.output, options, may_replace=args.force, report=report)
    show_layer(args, layer)
    return 0
