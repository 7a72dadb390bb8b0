"""What the command line prints: JSON for programs, tables for people, errors for both."""

from __future__ import annotations

import json
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from obdsup.errors import ObdError

__all__ = ["print_error", "print_fields", "print_json", "print_table", "size_text"]


def print_json(value: object) -> None:
    """One JSON document on stdout."""
    print(json.dumps(value, indent=2, sort_keys=True))


def print_table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table on stdout: drawn by rich on a terminal, aligned columns in a pipe."""
    texts = [["-" if cell is None or cell == "" else str(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table(box=None, header_style="bold", pad_edge=False)
        for heading in headings:
            table.add_column(heading, overflow="fold")
        for row in texts:
            table.add_row(*row)
        Console(highlight=False, markup=False).print(table)
        return
    lines = [list(headings), *texts]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    for line in lines:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        )


def print_fields(value: dict[str, object], indent: str = "") -> None:
    """``name: value`` lines; nested objects are indented."""
    width = max((len(key) for key in value), default=0)
    for key, item in value.items():
        if isinstance(item, dict) and item:
            print(f"{indent}{key}:")
            print_fields(item, indent + "  ")
        else:
            print(f"{indent}{key.ljust(width)}  {_text(item)}")


def _text(item: object) -> str:
    if item is None or item == "" or item == {} or item == []:
        return "-"
    if isinstance(item, bool):
        return "yes" if item else "no"
    if isinstance(item, list):
        return ", ".join(_text(part) for part in item)
    return str(item)


def print_error(error: ObdError, *, as_json: bool) -> None:
    """The message and the next step on stderr; with as_json also ``{"error": …}`` on stdout."""
    if as_json:
        print_json({"error": error.to_json()})
    print(f"obdsup: {error.what}", file=sys.stderr)
    if error.hint:
        print(f"  next: {error.hint}", file=sys.stderr)


def size_text(size_bytes: object) -> str:
    """``68719476736`` as ``64G``: exact, with the largest unit that divides it."""
    if not isinstance(size_bytes, int) or size_bytes <= 0:
        return "-"
    for unit, factor in (("T", 1 << 40), ("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10)):
        if size_bytes % factor == 0:
            return f"{size_bytes // factor}{unit}"
    return str(size_bytes)
