"""``obdsup reload``: the supervisor becomes another program in place; workers serve on."""

from __future__ import annotations

import os
import time

from obdsup.cli.device import client
from obdsup.cli.output import print_fields, print_json
from obdsup.errors import ControlError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

__all__ = ["add_parser"]

TIMEOUT_S = 60.0
POLL_S = 0.02


def reload(args: argparse.Namespace) -> int:
    """``reload``: returns when the successor answers."""
    supervisor = client(args)
    started = supervisor.call("status")["started"]
    # Not resolved: a release that is named by a link follows the link at the next reload, too.
    path = os.path.abspath(args.to) if args.to else ""
    answer = supervisor.call("reexec", path=path)
    deadline = time.monotonic() + TIMEOUT_S
    while (now := _status(args)) is None or now["started"] <= started:
        if time.monotonic() >= deadline:
            raise ControlError(
                f"the supervisor (pid {answer['pid']}) did not come back in {TIMEOUT_S:.0f} s",
                hint="see its log and `obdsup events --event supervisor.reexec`; workers serve on",
            )
        time.sleep(POLL_S)
    result = {**answer, "to": now["release"]}
    print_json(result) if args.json else print_fields(result)
    return 0


def _status(args: argparse.Namespace) -> Any:
    try:
        return client(args).call("status")
    except ControlError:
        return None


def add_parser(commands: Any, common: argparse.ArgumentParser) -> None:
    """Adds ``reload``."""
    parser = commands.add_parser(
        "reload",
        parents=[common],
        help="replace the supervisor in place; workers serve on",
        description="The supervisor becomes the program at the path it was started from, or of "
        "another release: same pid, rings, journals and sockets kept, workers untouched. A release "
        "that could not start is refused before anything happens.",
    )
    parser.add_argument("--to", metavar="PATH", help="a release: a virtual environment")
    parser.set_defaults(run=reload)
