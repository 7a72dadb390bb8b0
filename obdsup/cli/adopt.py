"""``obdsup adopt`` and ``obdsup release``: devices change hands with overlaybd-tcmu."""

from __future__ import annotations

import sys

from obdsup.cli.device import client
from obdsup.cli.output import print_json, print_table
from obdsup.errors import ConfigError, ProviderError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

__all__ = ["add_parsers"]

ADOPT = """Takes over devices that overlaybd-tcmu served, while their containers run. Stop or kill
overlaybd-tcmu first. Who uses them sees one slow I/O. New devices are served from then on."""
RELEASE = """Lets go of devices that others made in configfs, for overlaybd-tcmu. Until it starts,
which resets the rings, their I/O waits."""


def adopt(args: argparse.Namespace) -> int:
    """``adopt``."""
    return _run(args, "adopt", dry_run=args.dry_run)


def release(args: argparse.Namespace) -> int:
    """``release``."""
    return _run(args, "release")


def _run(args: argparse.Namespace, op: str, **fields: object) -> int:
    if bool(args.names) == args.all:
        raise ConfigError(f"{op}: give names or --all", hint="one of the two")
    progress = None if args.json else lambda text: print(text, file=sys.stderr, flush=True)
    rows = client(args).call(op, names=args.names, all=args.all, on_progress=progress, **fields)
    if args.json:
        print_json(rows)
    else:
        print_table(
            ["DEVICE", "HBA", "NAME", "DISK", "OUTCOME", "REASON"], [_cells(r) for r in rows]
        )
    refused = sum(row["outcome"] == "refused" for row in rows)
    if refused and not fields.get("dry_run"):
        raise ProviderError(
            f"{op}: {refused} of {len(rows)} devices refused", hint="the reasons are in the table"
        )
    return 0


def _cells(row: dict[str, Any]) -> list[object]:
    return [row.get(key) for key in ("device", "hba", "name", "block_device", "outcome", "reason")]


def add_parsers(commands: Any, common: argparse.ArgumentParser) -> None:
    """Adds ``adopt`` and ``release``."""
    for name, run, text in (("adopt", adopt, ADOPT), ("release", release, RELEASE)):
        one = commands.add_parser(
            name, parents=[common], help=text.partition(".")[0].replace("\n", " "), description=text
        )
        one.add_argument(
            "names", nargs="*", metavar="NAME", help="as `obdsup adopt --dry-run` says"
        )
        one.add_argument("--all", action="store_true", help="all of them")
        one.set_defaults(run=run)
        if run is adopt:
            one.add_argument("--dry-run", action="store_true", help="only say what would be done")
