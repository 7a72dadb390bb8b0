"""What the commands of ``obdsup image`` have in common: their parser, options, result."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from obdsup.cli.output import print_fields, print_json

__all__ = ["add_command", "block_size", "show"]

_BLOCK_SIZES = {f"{kib}k": kib * 1024 for kib in (4, 8, 16, 32, 64)}


def add_command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], text: str, examples: str
) -> argparse.ArgumentParser:
    """A parser with ``--json`` that runs ``run(args)``; ``args.usage_error`` refuses options.

    Args:
        text: what it does, as a line of the group's help.
        examples: lines indented by two blanks.
    """
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog="examples:\n" + examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--json", action="store_true", default=argparse.SUPPRESS, help="output for programs"
    )
    parser.set_defaults(run=run, usage_error=parser.error)
    return parser


def block_size(text: str) -> int:
    """``type=`` of options that take the block size of a ZFile."""
    sizes = _BLOCK_SIZES | {str(size): size for size in _BLOCK_SIZES.values()}
    if text.lower() not in sizes:
        raise argparse.ArgumentTypeError(f"expected {', '.join(_BLOCK_SIZES)}, found {text!r}")
    return sizes[text.lower()]


def show(args: argparse.Namespace, facts: dict[str, object]) -> None:
    """Prints the result of a command: names have underscores in JSON and blanks in text."""
    if args.json:
        print_json(facts)
    else:
        print_fields({name.replace("_", " "): value for name, value in facts.items()})
