"""``overlaybd-apply``: a layer's tar into the file system of an image."""

from __future__ import annotations

import argparse

from obdsup.cli.progress import progress
from obdsup.cli.reference.program import parser_of, refuse, run
from obdsup.format import config
from obdsup.image.apply import apply_tar

__all__ = ["main"]


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("overlaybd-apply", "Unpacks an OCI layer tar into an image.")
    parser.add_argument("--raw", action="store_true")
    parser.add_argument("--mkfs", action="store_true", help="make an ext4 first")
    parser.add_argument("--from_qcow2", action="store_true")
    parser.add_argument(
        "--extract-rootfs",
        dest="is_unpacked",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="unpack the tar (the default)",
    )
    parser.add_argument(
        "--service_config_path", metavar="FILE", help="accepted; not needed, and not read"
    )
    parser.add_argument("--gz_index_path", metavar="FILE", default="")
    parser.add_argument("--checksum", metavar="SHA256", default="", help="of the uncompressed tar")
    parser.add_argument("input", metavar="TAR")
    parser.add_argument("config", metavar="CONFIG")
    return parser


def apply(arguments: list[str]) -> None:
    """Carries the command line out."""
    args = _parser().parse_args(arguments)
    refuse("--raw", args.raw, "use obdsup image import")
    refuse("--from_qcow2", args.from_qcow2, "convert it with qemu-img, then obdsup image import")
    refuse("--no-extract-rootfs", not args.is_unpacked, "leave it out")
    refuse("--gz_index_path", args.gz_index_path, "make turboOCI layers with turboOCI-apply")
    image = config.load(args.config)
    with progress("apply") as report:
        apply_tar(image, args.input, mkfs=args.mkfs, expected_sha256=args.checksum, report=report)
    print(f"{args.config}: {args.input} applied")


def main() -> None:
    """The console script."""
    run(apply)
