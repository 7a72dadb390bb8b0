"""``overlaybd-resize``: another size for an image and the ext4 in it."""

from __future__ import annotations

import argparse

from obdsup.cli.progress import progress
from obdsup.cli.reference.program import parser_of, run
from obdsup.format import config
from obdsup.image import resize as resizing

__all__ = ["main"]


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("overlaybd-resize", "Resizes an image and its file system.")
    parser.add_argument("--config", metavar="FILE", required=True)
    parser.add_argument("--size", metavar="GB", type=int, required=True, help="in GiB")
    parser.add_argument(
        "--service_config_path", metavar="FILE", help="accepted; not needed, and not read"
    )
    return parser


def resize(arguments: list[str]) -> None:
    """Carries the command line out."""
    parser = _parser()
    args = parser.parse_args(arguments)
    if not 0 < args.size <= 65536:
        parser.error(f"--size: expected 1 to 65536, found {args.size}")
    with progress("resize") as report:
        resizing.resize(config.load(args.config), args.size << 30, report)
    print(f"{args.config}: resized to {args.size} GiB")


def main() -> None:
    """The console script."""
    run(resize)
