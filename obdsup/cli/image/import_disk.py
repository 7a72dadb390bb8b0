"""``obdsup image import``: a sealed layer of a raw disk."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Callable
from typing import Any

from obdsup.cli.image.command import add_command, block_size, show
from obdsup.cli.image.opening import open_image, refuse_own_files
from obdsup.cli.progress import progress
from obdsup.format.layer_writer import LayerWriter
from obdsup.format.lsmt_header import NULL_UUID, parse_uuid
from obdsup.format.raw_disk import RawDisk
from obdsup.format.sink import SeekableSink, atomic_output
from obdsup.format.units import SECTOR_BYTES
from obdsup.format.zfile_header import Algorithm
from obdsup.format.zfile_writer import ZFileWriter

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
    parser.add_argument("--base", metavar="CONFIG", help="the image the new layer goes on top of")
    parser.add_argument("--uuid", metavar="UUID", help="of the layer (default: none)")
    parser.add_argument(
        "--parent",
        metavar="UUID",
        help="of the layer below (default: that of the base's top layer)",
    )
    parser.add_argument("--force", action="store_true", help="replace LAYER when it exists")


def run_import(args: argparse.Namespace) -> int:
    """Makes a layer of a raw disk."""
    if args.block_size and not args.zfile:
        args.usage_error("--block-size needs --zfile")
    with contextlib.ExitStack() as opened:
        disk = RawDisk(args.disk)
        opened.callback(disk.close)
        base = opened.enter_context(open_image(args.base)) if args.base else None
        refuse_own_files(args.output, [args.disk, *(base.file_paths if base else [])])
        uuid = parse_uuid(args.uuid) if args.uuid else NULL_UUID
        parent = parse_uuid(args.parent) if args.parent else (base.top_uuid if base else NULL_UUID)
        report = opened.enter_context(progress("import"))
        with atomic_output(args.output, may_replace=args.force) as file:
            sink, finish = _layer_sink(file, args.zfile, args.block_size or 4096)
            writer = LayerWriter(sink, disk.size_bytes, uuid=uuid, parent_uuid=parent)
            disk.write_difference(
                writer, base.stack if base else None, lambda done: report(done, disk.size_bytes)
            )
            writer.finish()
            finish()
    segments = writer.segments
    show(
        args,
        {
            "layer": args.output,
            "file_bytes": os.path.getsize(args.output),
            "virtual_size_bytes": disk.size_bytes,
            "segments": len(segments),
            "data_bytes": sum(s.length for s in segments if not s.is_zeroed) * SECTOR_BYTES,
            "zeroed_bytes": sum(s.length for s in segments if s.is_zeroed) * SECTOR_BYTES,
            "uuid": uuid,
            "parent_uuid": parent,
        },
    )
    return 0


def _layer_sink(
    file: SeekableSink, algorithm: str | None, block_bytes: int
) -> tuple[Any, Callable[[], None]]:
    if algorithm is None:
        return file, lambda: None
    zfile = ZFileWriter(file, Algorithm[algorithm.upper()], block_bytes)
    return zfile, zfile.finish
