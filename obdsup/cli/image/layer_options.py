"""The options of all commands that write a layer, and what they print of it."""

from __future__ import annotations

import argparse
import sys

from obdsup.cli.image.command import block_size, show
from obdsup.format.zfile_header import Algorithm
from obdsup.image.commit import Committed, LayerOptions
from obdsup.image.zfile import ZFileOptions, reference_warning

__all__ = ["add_layer_options", "layer_options", "show_layer"]


def add_layer_options(parser: argparse.ArgumentParser, *, parent_of: str) -> None:
    """``-o``, ``--zfile`` and so on; ``parent_of``: whose parent uuid is taken by default."""
    parser.add_argument("-o", "--output", metavar="LAYER", required=True)
    parser.add_argument(
        "--zfile", choices=["lz4", "zstd"], help="compress, with a checksum per block"
    )
    parser.add_argument(
        "--block-size",
        metavar="SIZE",
        type=block_size,
        help="4k (default), 8k, 16k, 32k; other readers may refuse 64k",
    )
    parser.add_argument(
        "--tar", action="store_true", help="as the only member of a tar, for OCI tooling"
    )
    parser.add_argument("--uuid", metavar="UUID", help="of the layer (default: none)")
    parser.add_argument(
        "--parent", metavar="UUID", help=f"of the layer below (default: that of {parent_of})"
    )
    parser.add_argument("--user-tag", metavar="TEXT", default="", help="at most 256 bytes")
    parser.add_argument(
        "--threads",
        metavar="N",
        type=int,
        default=0,
        help="that compress (default: one per processor); the output is the same",
    )
    parser.add_argument("--force", action="store_true", help="replace LAYER when it exists")


def layer_options(
    args: argparse.Namespace, *, overwrites_header: bool = True, keeps_tags: bool = False
) -> LayerOptions:
    """What the options say; wrong combinations are usage errors."""
    if args.block_size and not args.zfile:
        args.usage_error("--block-size needs --zfile")
    zfile = None
    if args.zfile:
        zfile = ZFileOptions(
            Algorithm[args.zfile.upper()],
            args.block_size or 4096,
            overwrites_header=overwrites_header,
            threads=args.threads,
        )
    return LayerOptions(
        zfile=zfile,
        uuid=args.uuid or "",
        parent_uuid=args.parent,
        user_tag=args.user_tag,
        keeps_tags=keeps_tags,
        in_tar=args.tar,
    )


def show_layer(args: argparse.Namespace, layer: Committed) -> None:
    """Prints what was written; a warning when the reference can not read it."""
    warning = reference_warning(layer.longest_block_bytes)
    if warning:
        print(f"obdsup: {args.output}: {warning}", file=sys.stderr)
    show(
        args,
        {
            "layer": args.output,
            "file_bytes": layer.file_bytes,
            "virtual_size_bytes": layer.virtual_size_bytes,
            "segments": layer.segment_cnt,
            "data_bytes": layer.data_bytes,
            "zeroed_bytes": layer.zeroed_bytes,
            "uuid": layer.uuid,
            "parent_uuid": layer.parent_uuid,
        },
    )
