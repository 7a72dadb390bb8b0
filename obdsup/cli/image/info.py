"""``obdsup image info``: what an image, a layer or any of its files is made of."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from obdsup.cli.image.command import add_command
from obdsup.cli.output import print_fields, print_json, size_text
from obdsup.errors import FormatError
from obdsup.image.info import describe_file, describe_image, holds_layer, kind_of, load

__all__ = ["add"]


def add(commands: Any) -> None:
    """Adds ``info``."""
    parser = add_command(
        commands,
        "info",
        run_info,
        "what an image or layer is made of",
        "  obdsup image info config.v1.json\n"
        "  obdsup image info --json layer.obd\n"
        "  obdsup image info upper.data upper.index\n\n"
        "Of a damaged one, what is wrong and what is left; exit code 11.",
    )
    parser.add_argument("image", metavar="CONFIG_OR_LAYER", help="or any file of one")
    parser.add_argument("index", metavar="INDEX", nargs="?", default="", help="of a writable layer")


def run_info(args: argparse.Namespace) -> int:
    """Prints what the image is made of."""
    kind = "pair" if args.index else kind_of(args.image)
    if kind not in ("config", "pair", "layer") or (kind == "layer" and not holds_layer(args.image)):
        facts = describe_file(args.image, "zfile" if kind == "layer" else kind)
    else:
        image = load(args.image, args.index)
        facts = {"image": args.image, "kind": kind, **describe_image(image)}
    if args.json:
        print_json(facts)
    elif "lowers" in facts:
        _print_image(facts)
    else:
        _print(facts)
    problems: Any = facts.get("problems")
    return FormatError.exit_code if problems else 0


def _print(facts: dict[str, Any], indent: str = "") -> None:
    print_fields({name.replace("_", " "): value for name, value in facts.items()}, indent)


def _print_image(facts: dict[str, Any]) -> None:
    size = facts["virtual_size_bytes"]
    print(f"{facts['image']}: virtual size {size_text(size)}, bottom to top:")
    for position, lower in enumerate(facts["lowers"]):
        print(f"layer {position}")
        _print(lower, "  ")
    if facts["upper"]:
        print("upper")
        _print(facts["upper"], "  ")
    for warning in facts["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    for problem in facts["problems"]:
        print(f"damaged: {problem}", file=sys.stderr)
