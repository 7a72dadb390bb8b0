"""``obdsup upgrade``: rolls another release of the workers out, newer or older, and watches it."""

from __future__ import annotations

import os
import sys

from obdsup.cli.device import client
from obdsup.cli.output import print_fields, print_json
from obdsup.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

__all__ = ["add_parser", "parse_seconds"]

EXAMPLES = """examples:
  obdsup upgrade --to /opt/obdsup/0.2.0            one canary, 30 s of watching, then ten at a time
  obdsup upgrade --to /opt/obdsup/0.2.0 --canary 2 --batch 20 --watch 2m
  obdsup upgrade --to /opt/obdsup/0.1.0            an older release: the same
  obdsup upgrade status
  obdsup upgrade abort                             everything that has moved goes back

A release is a virtual environment that obdsup was installed into. A death, a hang, errors or a jump
of the latency of a device that moved rolls everything back; exit code 16 and the reason then. The
supervisor itself follows at the end, without a pause; --workers-only leaves it as it is.
"""
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_seconds(text: str) -> float:
    """``30s``, ``2m``, ``500ms``, ``1h``, or a plain number of seconds.

    Raises:
        ConfigError: it is none of these.
    """
    number = text.rstrip("mshd")
    try:
        return float(number) * _UNITS[text[len(number) :] or "s"]
    except (ValueError, KeyError):
        raise ConfigError(
            f"{text!r} is no length of time", hint="for example 30s, 2m, 500ms"
        ) from None


def _follow(args: argparse.Namespace) -> Any:
    stream = sys.stderr if args.json else sys.stdout
    return lambda text: print(text, file=stream, flush=True)


def upgrade(args: argparse.Namespace) -> int:
    """``upgrade --to``."""
    if args.to is None:
        raise ConfigError(
            "upgrade needs --to PATH", hint="or one of `upgrade status`, `upgrade abort`"
        )
    target = os.path.realpath(args.to)
    report = client(args).call(
        "upgrade",
        to=target,
        canary=args.canary,
        batch=args.batch,
        watch_s=parse_seconds(args.watch),
        on_progress=_follow(args),
    )
    report["supervisor"] = None
    if not args.workers_only and report["release_of_supervisor"] != target:
        report["supervisor"] = client(args).call("reexec", path=target, on_progress=_follow(args))
    if args.json:
        print_json(report)
    elif report["is_same"]:
        print(f"release {report['version']} at {target} is in use already: nothing to do")
    else:
        print(f"release {report['version']} at {target}: {len(report['moved'])} devices moved")
    return 0


def status(args: argparse.Namespace) -> int:
    """``upgrade status``."""
    report = client(args).call("upgrade.status")
    print_json(report) if args.json else print_fields(report)
    return 0


def abort(args: argparse.Namespace) -> int:
    """``upgrade abort``."""
    report = client(args).call("upgrade.abort")
    print_json(report) if args.json else print(f"rolled back: {len(report['moved'])} devices")
    return 0


def add_parser(commands: Any, common: argparse.ArgumentParser) -> None:
    """Adds ``upgrade``; ``common`` holds the options every command takes."""
    import argparse

    raw = argparse.RawDescriptionHelpFormatter
    parser = commands.add_parser(
        "upgrade",
        parents=[common],
        help="roll another release of the workers out, watched; newer or older",
        epilog=EXAMPLES,
        formatter_class=raw,
    )
    add = parser.add_argument
    add("--to", metavar="PATH", help="of the release: a virtual environment with obdsup in it")
    add("--canary", type=int, default=1, metavar="N", help="devices that move first (1)")
    add("--batch", type=int, default=10, metavar="M", help="devices that move together then (10)")
    add("--watch", default="30s", metavar="TIME", help="of watching after each of them (30s)")
    add("--workers-only", action="store_true", help="leave the supervisor as it is")
    parser.set_defaults(run=upgrade)
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    for name, run, text in (
        ("status", status, "how far it is, or how the last one ended"),
        ("abort", abort, "roll it back"),
    ):
        actions.add_parser(name, parents=[common], help=text).set_defaults(run=run)
