"""``obdsup image verify``: every block of every layer, read and checked."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from obdsup.cli.image.command import add_command, show
from obdsup.cli.image.opening import open_image
from obdsup.cli.output import print_json
from obdsup.cli.progress import progress
from obdsup.errors import FormatError
from obdsup.format.image import Image, Problem

_SHOWN_PROBLEMS = 100

__all__ = ["add"]


def add(commands: Any) -> None:
    """Adds ``verify``."""
    parser = add_command(
        commands,
        "verify",
        run_verify,
        "read every block of every layer and check it",
        "  obdsup image verify config.v1.json\n\n"
        "Exit code 11 when a block is damaged; each is named.",
    )
    parser.add_argument("image", metavar="CONFIG_OR_LAYER")


def _problem_facts(image: Image, problem: Problem) -> dict[str, object]:
    error = problem.error
    is_upper = problem.layer == len(image.lowers)
    return {
        "layer": "upper" if is_upper else problem.layer,
        "file": str(error.fields.get("path", "")),
        "offset": error.fields.get("offset"),
        "message": error.what,
    }


def run_verify(args: argparse.Namespace) -> int:
    """Reads every block; the exit code of FormatError when one is damaged."""
    found: list[dict[str, object]] = []
    with open_image(args.image) as image:
        total = image.block_cnt()
        with progress("verify") as report:
            found.extend(
                _problem_facts(image, problem)
                for problem in image.problems(lambda done: report(done, total))
            )
        facts: dict[str, object] = {
            "image": args.image,
            "ok": not found,
            "layers": len(image.lowers) + (image.upper is not None),
            "blocks": total,
            "torn_tail_bytes": image.upper.torn_bytes if image.upper else 0,
            "problem_count": len(found),
        }
    if args.json:
        print_json(facts | {"problems": found})
    else:
        for problem in found[:_SHOWN_PROBLEMS]:
            print(f"layer {problem['layer']}: {problem['message']}", file=sys.stderr)
        if len(found) > _SHOWN_PROBLEMS:
            print(f"… and {len(found) - _SHOWN_PROBLEMS} more", file=sys.stderr)
        show(args, facts)
    return FormatError.exit_code if found else 0
