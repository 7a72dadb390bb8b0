"""``obdsup image import``: a sealed layer of a raw disk."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

from obdsup.cli.image.command import add_command
from obdsup.cli.image.layer_options import add_layer_options, layer_options, show_layer
from obdsup.cli.image.opening import image_files, refuse_own_files
from obdsup.cli.progress import progress
from obdsup.format.config import ImageConfig
from obdsup.image.import_disk import import_disk
from obdsup.image.info import top_uuid
from obdsup.image.spec import file_paths

__all__ = ["add"]


def add(commands: Any) -> None:
    """Adds ``import``."""
    parser = add_command(
        commands,
        "import",
        run_import,
        "make a sealed layer of a raw disk",
        "  obdsup image import disk.raw -o base.obd --zfile lz4\n"
        "  obdsup image import changed.raw -o top.obd --zfile zstd --base config.v1.json\n\n"
        "Zero sectors are not stored. With --base only sectors that differ from that image are.",
    )
    parser.add_argument("disk", metavar="DISK", help="raw disk: a file or block device")
    parser.add_argument("--base", metavar="CONFIG", help="the image the new layer goes on top of")
    add_layer_options(parser, parent_of="nobody, or the base's top layer")


def run_import(args: argparse.Namespace) -> int:
    """Makes a layer of a raw disk."""
    options = layer_options(args)
    base: ImageConfig | None = image_files(args.base) if args.base else None
    refuse_own_files(args.output, [args.disk, *(file_paths(base) if base else [])])
    if base is not None and options.parent_uuid is None:
        options = replace(options, parent_uuid=top_uuid(base))
    with progress("import") as report:
        layer = import_disk(
            args.disk, args.output, options, base=base, may_replace=args.force, report=report
        )
    show_layer(args, layer)
    return 0
