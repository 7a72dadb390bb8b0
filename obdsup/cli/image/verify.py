"""``obdsup image verify``: every block of every layer, read and checked."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from obdsup.cli.image.command import add_command, show
from obdsup.cli.output import print_json
from obdsup.cli.progress import progress
from obdsup.errors import FormatError
from obdsup.format.config import ImageConfig
from obdsup.image.info import describe_image, load
from obdsup.image.owners import files_in
from obdsup.image.verify import Damage, verify_image

__all__ = ["add"]

_SHOWN_DAMAGES = 100
_SHOWN_RANGES = 3


def add(commands: Any) -> None:
    """Adds ``verify``."""
    parser = add_command(
        commands,
        "verify",
        run_verify,
        "read every block of every layer and check it",
        "  obdsup image verify config.v1.json\n"
        "  obdsup image verify upper.data upper.index\n\n"
        "Exit code 11 when a block is damaged; each is named, with the part of the disk that\n"
        "depends on it, and the files of an ext4 in it.",
    )
    parser.add_argument("image", metavar="CONFIG_OR_LAYER")
    parser.add_argument("index", metavar="INDEX", nargs="?", default="", help="of a writable layer")
    parser.add_argument(
        "--chain", action="store_true", help="a parent uuid that is not that of the layer below"
    )


def _facts(image: ImageConfig, damage: Damage) -> dict[str, object]:
    is_upper = damage.layer == len(image.lowers)
    return {
        "layer": "upper" if is_upper else damage.layer,
        "file": str(damage.error.fields.get("path", "")),
        "offset": damage.error.fields.get("offset"),
        "disk_ranges": damage.disk_ranges,
        "message": damage.error.what,
    }


def _line(problem: dict[str, Any]) -> str:
    ranges: list[tuple[int, int]] = problem["disk_ranges"]
    text = f"layer {problem['layer']}: {problem['message']}"
    if ranges:
        shown = ", ".join(f"{begin} to {end}" for begin, end in ranges[:_SHOWN_RANGES])
        text += f"; bytes of the disk: {shown}" + (" …" if len(ranges) > _SHOWN_RANGES else "")
    return text


def run_verify(args: argparse.Namespace) -> int:
    """Reads every block; the exit code of FormatError when one is damaged."""
    image = load(args.image, args.index)
    with progress("verify") as report:
        found = verify_image(image, report)
    problems = [_facts(image, damage) for damage in found.damages]
    breaks: Any = describe_image(image)["warnings"] if args.chain else []
    files = files_in(image, [one for damage in found.damages for one in damage.disk_ranges])
    is_ok = not found.damage_cnt and not breaks
    facts: dict[str, object] = {
        "image": args.image,
        "ok": is_ok,
        "layers": len(image.lowers) + (image.upper is not None),
        "blocks": found.block_cnt,
        "torn_tail_bytes": found.torn_tail_bytes,
        "problem_count": found.damage_cnt + len(breaks),
    }
    if args.json:
        print_json(facts | {"problems": problems, "chain": breaks, "files": files})
    else:
        for problem in problems[:_SHOWN_DAMAGES]:
            print(_line(problem), file=sys.stderr)
        for path, size in list((files or {}).items())[:_SHOWN_DAMAGES]:
            print(f"file {path}: {size} bytes in damaged blocks", file=sys.stderr)
        for one in breaks:
            print(f"chain: {one}", file=sys.stderr)
        if found.damage_cnt > _SHOWN_DAMAGES:
            print(f"… and {found.damage_cnt - _SHOWN_DAMAGES} more", file=sys.stderr)
        show(args, facts)
    return 0 if is_ok else FormatError.exit_code
