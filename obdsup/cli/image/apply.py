"""``obdsup image apply``: a layer's tar into the file system of an image."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from obdsup.cli.image.command import add_command, show
from obdsup.cli.progress import progress
from obdsup.format import config
from obdsup.image.apply import apply_tar

__all__ = ["add"]


def add(commands: Any) -> None:
    """Adds ``apply``."""
    parser = add_command(
        commands,
        "apply",
        run_apply,
        "unpack a layer's tar into the image, without mounting it",
        "  obdsup image new-upper --size 64G upper.data upper.index\n"
        "  obdsup image apply --mkfs layer.tar.gz config.v1.json\n"
        "  zcat layer.tar.gz | obdsup image apply - config.v1.json\n\n"
        "TAR is an OCI layer: plain, gzip or zstd; a file, a FIFO or - for stdin. CONFIG has an\n"
        "upper, which gets the changes. When it fails or is stopped, the file system is as it\n"
        "was (after --mkfs: there is none).",
    )
    parser.add_argument("tar", metavar="TAR")
    parser.add_argument("config", metavar="CONFIG")
    parser.add_argument(
        "--mkfs", action="store_true", help="make an ext4 first; what is in the image is gone"
    )
    parser.add_argument(
        "--checksum", metavar="SHA256", default="", help="of the uncompressed tar: refuse any other"
    )


def run_apply(args: argparse.Namespace) -> int:
    """Applies the tar."""
    image = config.load(args.config)
    with progress("apply") as report:
        applied = apply_tar(
            image, args.tar, mkfs=args.mkfs, expected_sha256=args.checksum, report=report
        )
    facts = dataclasses.asdict(applied)
    if not applied.sha256:
        del facts["sha256"]
    show(args, {"image": args.config, "tar": args.tar} | facts)
    return 0
