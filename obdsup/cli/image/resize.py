"""``obdsup image resize``: another virtual size, and the file system with it."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from obdsup.cli.image.command import add_command, show
from obdsup.cli.progress import progress
from obdsup.cli.size import parse_device_size
from obdsup.format import config
from obdsup.image.resize import resize

__all__ = ["add"]


def add(commands: Any) -> None:
    """Adds ``resize``."""
    parser = add_command(
        commands,
        "resize",
        run_resize,
        "grow or shrink an image and the ext4 in it",
        "  obdsup image resize config.v1.json --size 128G\n\n"
        "CONFIG has an upper, which gets the changes; its device must not exist meanwhile.\n"
        "Needs e2fsprogs, and room beside the upper for a copy of what the image holds.",
    )
    parser.add_argument("config", metavar="CONFIG")
    parser.add_argument(
        "--size", metavar="SIZE", required=True, help="new virtual size, as 128G or bytes"
    )


def run_resize(args: argparse.Namespace) -> int:
    """Resizes."""
    image = config.load(args.config)
    with progress("resize") as report:
        resized = resize(image, parse_device_size(args.size), report)
    show(args, {"image": args.config} | dataclasses.asdict(resized))
    return 0
