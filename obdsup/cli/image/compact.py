"""``obdsup image compact``: a sealed layer written anew, without garbage."""

from __future__ import annotations

import argparse
from typing import Any

from obdsup.cli.image.command import add_command
from obdsup.cli.image.layer_options import add_layer_options, layer_options, show_layer
from obdsup.cli.progress import progress
from obdsup.image.commit import Sources, write_layer

__all__ = ["add"]


def add(commands: Any) -> None:
    """Adds ``compact``."""
    parser = add_command(
        commands,
        "compact",
        run_compact,
        "write a sealed layer anew, without what was overwritten",
        "  obdsup image compact sealed.data -o layer.obd --zfile lz4\n"
        "  obdsup image compact layer.lz4.obd -o layer.zstd.obd --zfile zstd --block-size 16k",
    )
    parser.add_argument("layer", metavar="SEALED", help="sealed layer: raw, ZFile, in a tar or not")
    add_layer_options(parser, parent_of="SEALED")


def run_compact(args: argparse.Namespace) -> int:
    """Writes the layer."""
    options = layer_options(args)
    with progress("compact") as report:
        layer = write_layer(
            Sources((args.layer,)), args.output, options, may_replace=args.force, report=report
        )
    show_layer(args, layer)
    return 0
