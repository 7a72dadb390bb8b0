"""``obdsup image info``: what an image or layer is made of."""

from __future__ import annotations

import argparse
import os
from typing import Any

from obdsup.cli.image.command import add_command
from obdsup.cli.image.opening import open_image
from obdsup.cli.output import print_fields, print_json, size_text
from obdsup.format import layer
from obdsup.format.sparse_upper import SparseUpper
from obdsup.format.units import SECTOR_BYTES
from obdsup.format.upper import Upper

__all__ = ["add"]


def add(commands: Any) -> None:
    """Adds ``info``."""
    parser = add_command(
        commands,
        "info",
        run_info,
        "what an image or layer is made of",
        "  obdsup image info config.v1.json\n  obdsup image info --json layer.obd",
    )
    parser.add_argument("image", metavar="CONFIG_OR_LAYER")


def _lower_facts(lower: layer.LayerFile) -> dict[str, object]:
    header, segments = lower.layer.header, lower.layer.segments
    zfile = lower.zfile.header if lower.zfile is not None else None
    return {
        "file": lower.layer.path,
        "file_bytes": lower.file_bytes,
        "compression": zfile.algorithm.name.lower() if zfile else "none",
        "block_bytes": zfile.block_bytes if zfile else None,
        "has_block_crc": zfile.is_verified if zfile else False,
        "tar_base_bytes": lower.tar_base_bytes,
        "virtual_size_bytes": header.virtual_size_bytes,
        "uuid": header.uuid,
        "parent_uuid": header.parent_uuid,
        "user_tag": header.user_tag,
        "segments": len(segments),
        "data_bytes": sum(s.length for s in segments if not s.is_zeroed) * SECTOR_BYTES,
        "zeroed_bytes": sum(s.length for s in segments if s.is_zeroed) * SECTOR_BYTES,
    }


def _upper_facts(data: str, index: str, upper: Upper | SparseUpper) -> dict[str, object]:
    return {
        "data": data,
        "index": index,
        "data_file_bytes": os.path.getsize(data),
        "virtual_size_bytes": upper.header.virtual_size_bytes,
        "uuid": upper.header.uuid,
        "records": upper.record_cnt,
        "segments": len(upper.map),
        "torn_tail_bytes": upper.torn_bytes,
    }


def run_info(args: argparse.Namespace) -> int:
    """Prints what the image is made of."""
    with open_image(args.image) as image:
        facts: dict[str, object] = {
            "image": args.image,
            "virtual_size_bytes": image.size_bytes,
            "mapped_bytes": sum(s.length for s in image.segments()) * SECTOR_BYTES,
            "lowers": [_lower_facts(lower) for lower in image.lowers],
            "upper": _upper_facts(*image.upper_paths, image.upper) if image.upper else None,
        }
    if args.json:
        print_json(facts)
        return 0
    print(f"{args.image}: virtual size {size_text(image.size_bytes)}, bottom to top:")
    for position, lower in enumerate(facts.pop("lowers")):  # type: ignore[var-annotated,arg-type]
        print(f"layer {position}")
        print_fields({k.replace("_", " "): v for k, v in lower.items()}, "  ")
    upper = facts["upper"]
    if isinstance(upper, dict):
        print("upper")
        print_fields({k.replace("_", " "): v for k, v in upper.items()}, "  ")
    return 0
