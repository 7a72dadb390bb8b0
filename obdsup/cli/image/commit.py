"""``obdsup image commit``: a sealed layer of a writable one."""

from __future__ import annotations

import argparse
from typing import Any

from obdsup.cli.image.command import add_command
from obdsup.cli.image.layer_options import add_layer_options, layer_options, show_layer
from obdsup.cli.progress import progress
from obdsup.image.commit import Sources, write_layer

__all__ = ["add"]


def add(commands: Any) -> None:
    """Adds ``commit``."""
    parser = add_command(
        commands,
        "commit",
        run_commit,
        "make a sealed layer of a writable one",
        "  obdsup image commit upper.data upper.index -o layer.obd --zfile lz4\n"
        "  obdsup image commit upper.data upper.index -o layer.tar --zfile zstd --tar\n\n"
        "The writable layer stays as it is. One that is being written to is taken as it is at\n"
        "one moment. Same input, same output, with any number of threads.",
    )
    parser.add_argument("data", metavar="DATA")
    parser.add_argument("index", metavar="INDEX")
    add_layer_options(parser, parent_of="DATA")


def run_commit(args: argparse.Namespace) -> int:
    """Writes the layer."""
    options = layer_options(args)
    sources = Sources(upper=(args.data, args.index))
    with progress("commit") as report:
        layer = write_layer(sources, args.output, options, may_replace=args.force, report=report)
    show_layer(args, layer)
    return 0
