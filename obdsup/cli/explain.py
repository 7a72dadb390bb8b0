"""``obdsup device explain NAME``: why it is in its state, what was tried, what to do."""

from __future__ import annotations

from obdsup.cli.output import print_json
from obdsup.state.control import SOCKET_NAME, ControlClient

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

__all__ = ["add_action", "print_explanation"]


def explain(args: argparse.Namespace) -> int:
    """``device explain``."""
    client = ControlClient(f"{args.run_dir}/{SOCKET_NAME}")
    found = client.call("device.explain", name=args.name)
    print_json(found) if args.json else print_explanation(found)
    return 0


def print_explanation(found: dict[str, Any]) -> None:
    """For people."""
    print(f"{found['name']}: {found['phase']}")
    print(f"  {found['summary']}")
    for heading, key in (("why", "why"), ("what was tried", "tried"), ("what to do", "next")):
        lines = found.get(key) or []
        if lines:
            print(f"{heading}:")
        for line in lines:
            print(f"  {line}")


def add_action(actions: Any, common: argparse.ArgumentParser) -> None:
    """Adds ``explain`` to ``device``."""
    one = actions.add_parser(
        "explain", parents=[common], help="why it is in its state, what was tried, what to do"
    )
    one.add_argument("name", help="of the device")
    one.set_defaults(run=explain)
