"""``overlaybd-create``: an empty writable layer, or a raw disk file."""

from __future__ import annotations

import argparse
import contextlib
import os

from obdsup.cli.reference.program import parser_of, refuse, run
from obdsup.errors import ConfigError
from obdsup.format.config import ImageConfig
from obdsup.format.lsmt_header import NULL_UUID, parse_uuid
from obdsup.format.upper_writer import create_upper
from obdsup.image.apply import make_file_system

__all__ = ["main"]


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("overlaybd-create", "Makes a writable layer.")
    parser.add_argument("-u", dest="parent", metavar="UUID", default="", help="of the layer below")
    parser.add_argument("-s", dest="sparse", action="store_true", help="sparse mode")
    parser.add_argument("--turboOCI", "--fastoci", dest="turbo", action="store_true")
    parser.add_argument("--raw", action="store_true", help="DATA is a plain file of that size")
    parser.add_argument("--mkfs", action="store_true", help="with an ext4 in it")
    parser.add_argument("--hybrid", action="store_true")
    parser.add_argument("data", metavar="DATA")
    parser.add_argument("index", metavar="INDEX")
    parser.add_argument("size_gib", metavar="SIZE_GB", type=int)
    return parser


def _create_raw(path: str, size_bytes: int) -> None:
    try:
        with open(path, "xb") as file:
            file.truncate(size_bytes)
    except OSError as error:
        raise ConfigError(f"{path}: can not be made: {error.strerror}") from error


def create(arguments: list[str]) -> None:
    """Carries the command line out."""
    parser = _parser()
    args = parser.parse_args(arguments)
    refuse("--turboOCI", args.turbo, "make file-system metadata with overlaybd's own tool")
    refuse("--hybrid", args.hybrid, "leave it out, or give -s")
    refuse("--raw with --mkfs", args.raw and args.mkfs, "run mkfs.ext4 on the file")
    if not 0 < args.size_gib <= 65536:
        parser.error(f"SIZE_GB: expected 1 to 65536, found {args.size_gib}")
    size_bytes = args.size_gib << 30
    if args.raw:
        _create_raw(args.data, size_bytes)
        return
    parent = parse_uuid(args.parent) if args.parent else NULL_UUID
    create_upper(args.data, args.index, size_bytes, parent_uuid=parent, is_sparse=args.sparse)
    if args.mkfs:
        data, index = os.path.abspath(args.data), os.path.abspath(args.index)
        with contextlib.ExitStack() as failed:
            for path in (data, index):
                failed.callback(os.unlink, path)
            make_file_system(ImageConfig(data, (), (data, index)))
            failed.pop_all()
    print(f"{args.data}: created, {args.size_gib} GiB")


def main() -> None:
    """The console script."""
    run(create)
