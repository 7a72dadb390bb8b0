"""``obdsup image seal``: a writable layer becomes a sealed one where it stands."""

from __future__ import annotations

import argparse
from typing import Any

from obdsup.cli.image.command import add_command, show
from obdsup.image.seal import seal

__all__ = ["add"]


def add(commands: Any) -> None:
    """Adds ``seal``."""
    parser = add_command(
        commands,
        "seal",
        run_seal,
        "turn a writable layer into a sealed one, in place",
        "  obdsup image seal upper.data upper.index\n\n"
        "DATA becomes the layer, in no time, with what was overwritten still inside. INDEX is not\n"
        "needed any more; nothing may write to the pair again.",
    )
    parser.add_argument("data", metavar="DATA")
    parser.add_argument("index", metavar="INDEX")


def run_seal(args: argparse.Namespace) -> int:
    """Seals the pair."""
    sealed = seal(args.data, args.index)
    show(
        args,
        {
            "layer": args.data,
            "file_bytes": sealed.file_bytes,
            "virtual_size_bytes": sealed.virtual_size_bytes,
            "segments": sealed.segment_cnt,
            "garbage_bytes": sealed.garbage_bytes,
        },
    )
    return 0
