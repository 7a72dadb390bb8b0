"""``obdsup top``: devices, workers and releases under load, live. Leaves with q or Ctrl-C."""

from __future__ import annotations

import contextlib
import json
import select
import sys
import time

from obdsup.cli.output import print_table
from obdsup.cli.status import duration_text
from obdsup.cli.top_rates import LoadRow, rates, total
from obdsup.errors import ConfigError, ControlError
from obdsup.state.control import SOCKET_NAME, ControlClient

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from typing import Any

__all__ = ["add_parser"]

LOOKS_PER_INTERVAL = 5
INTERVAL_MIN_S, INTERVAL_MAX_S = 0.2, 60.0
HEADINGS = ["DEVICE", "PHASE", "WORKER", "RELEASE", "IN FLIGHT", "IOPS", "READ MB/S", "WRITE MB/S",
            "~LATENCY", "TAKEN OVER", "LAST STALL"]  # fmt: skip

EXAMPLES = """examples:
  obdsup top                      live; q leaves
  obdsup top --once               one interval, as a table
  obdsup --json top --interval 5  one line of JSON every 5 s

Latency is an estimate by Little's law: mean in flight / IOPS. The last stall is the time without
a server at the last take-over or hand-over, how long ago, and how many commands were recovered.
"""


class Sampler:
    """Asks the supervisor; one call per look, for all devices."""

    def __init__(self, client: ControlClient, interval_s: float) -> None:
        self._client = client
        self._interval_s = interval_s
        self._last = client.call("top")

    def next(self, keys: Keys) -> tuple[dict[str, Any], list[LoadRow]] | None:
        """The next interval, None when somebody pressed q.

        Raises:
            ControlError: the supervisor does not answer.
        """
        looks = []
        for _ in range(LOOKS_PER_INTERVAL - 1):
            if keys.is_quit(self._interval_s / LOOKS_PER_INTERVAL):
                return None
            looks.append(self._client.call("top.in_flight"))
        if keys.is_quit(self._interval_s / LOOKS_PER_INTERVAL):
            return None
        before, self._last = self._last, self._client.call("top")
        return self._last, rates(before, self._last, looks)


class Keys:
    """The keyboard, one key at a time; a plain pause where there is none."""

    def __init__(self, *, is_terminal: bool) -> None:
        self._is_terminal = is_terminal

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Keys come without Enter and are not shown; as before afterwards, whatever happens."""
        if not self._is_terminal:
            yield
            return
        import termios
        import tty

        before = termios.tcgetattr(sys.stdin)
        tty.setcbreak(sys.stdin)
        try:
            yield
        finally:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)

    def is_quit(self, timeout_s: float) -> bool:
        """Waits; whether q was pressed meanwhile."""
        if not self._is_terminal:
            time.sleep(timeout_s)
            return False
        deadline = time.monotonic() + timeout_s
        while (left_s := deadline - time.monotonic()) > 0:
            if select.select([sys.stdin], [], [], left_s)[0] and sys.stdin.read(1) in ("q", "Q"):
                return True
        return False


def top(args: argparse.Namespace) -> int:
    """``top``."""
    if not INTERVAL_MIN_S <= args.interval <= INTERVAL_MAX_S:
        raise ConfigError(
            f"--interval {args.interval} is not {INTERVAL_MIN_S} to {INTERVAL_MAX_S} seconds"
        )
    sampler = Sampler(ControlClient(f"{args.run_dir}/{SOCKET_NAME}"), args.interval)
    is_live = sys.stdout.isatty() and not args.json and not args.once
    if is_live:
        _run_live(sampler)
        return 0
    while True:
        taken = sampler.next(Keys(is_terminal=False))
        assert taken is not None
        _print(*taken, as_json=args.json)
        if args.once:
            return 0


def _run_live(sampler: Sampler) -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    keys = Keys(is_terminal=sys.stdin.isatty())
    with (
        keys.taken(),
        Live(Text("…"), console=Console(), screen=True, auto_refresh=False) as live,
    ):
        while True:
            try:
                taken = sampler.next(keys)
            except ControlError as error:
                live.update(Text(f"{error}: trying again, q leaves"), refresh=True)
                if keys.is_quit(1.0):
                    return
                continue
            if taken is None:
                return
            live.update(_screen(*taken), refresh=True)


def _screen(answer: dict[str, Any], rows: list[LoadRow]) -> Any:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for number, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="right" if number > 3 else "left", no_wrap=True)
    busiest = sorted(rows, key=lambda row: (row.phase == "online", -row.iops, row.name))
    for row in [total(rows), *busiest]:
        style = "bold" if row.name == "total" and not row.phase else ""
        style = "red" if row.phase and row.phase != "online" else style
        table.add_row(*_cells(row), style=style)
    return Group(Text(_head(answer, rows)), Text(), table)


def _head(answer: dict[str, Any], rows: list[LoadRow]) -> str:
    workers = answer["workers"]
    releases = sorted({str(worker["release"]) for worker in workers if worker["release"]})
    text = (
        f"obdsup {answer['release']}  {time.strftime('%H:%M:%S')}  {len(rows)} devices  "
        f"{len(workers)} workers of {', '.join(releases) or '-'}  "
        f"{answer['standbys_ready']}/{answer['standbys_wanted']} standbys"
    )
    rollout = answer.get("rollout")
    return f"{text}  rollout {rollout['state']}" if rollout else text


def _print(answer: dict[str, Any], rows: list[LoadRow], *, as_json: bool) -> None:
    if as_json:
        line = {
            "at_ns": answer["at_ns"], "release": answer["release"], "workers": answer["workers"],
            "total": total(rows).to_json(), "devices": [row.to_json() for row in rows],
        }  # fmt: skip
        print(json.dumps(line, sort_keys=True), flush=True)
        return
    print(_head(answer, rows))
    print_table(HEADINGS, [_cells(row) for row in [total(rows), *rows]])
    sys.stdout.flush()


def _cells(row: LoadRow) -> list[str]:
    stall = "-"
    if row.stall_ms is not None:
        ago = f", {duration_text(time.time() - row.stalled)} ago" if row.stalled else ""
        stall = f"{row.stall_ms:.1f} ms{ago}, {row.recovered} recovered"
    latency = "-" if row.latency_ms is None else f"{row.latency_ms:.2f} ms"
    return [
        row.name, row.phase or "-", row.worker or "-", row.release or "-", f"{row.in_flight:.1f}",
        f"{row.iops:.0f}", f"{row.read_mbps:.1f}", f"{row.write_mbps:.1f}", latency,
        str(row.takeovers), stall,
    ]  # fmt: skip


def add_parser(commands: Any, common: argparse.ArgumentParser) -> None:
    """Adds ``top``."""
    import argparse

    one = commands.add_parser(
        "top",
        parents=[common],
        help="devices and workers under load, live",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    one.add_argument(
        "--interval", type=float, default=1.0, metavar="S", help="seconds between looks (1)"
    )
    one.add_argument("--once", action="store_true", help="one interval, then end")
    one.set_defaults(run=top)
