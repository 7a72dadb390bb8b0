"""``obdsup device …``: create, list, show, remove, hand over. The supervisor does the work."""

from __future__ import annotations

import os
import sys

from obdsup.cli import explain
from obdsup.cli.output import print_fields, print_json, print_table, size_text
from obdsup.cli.size import parse_device_size
from obdsup.errors import ConfigError
from obdsup.state.control import SOCKET_NAME, ControlClient

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

__all__ = ["add_parser", "client", "print_devices"]

EXAMPLES = """examples:
  obdsup device create web --image /images/web/config.v1.json
  obdsup device create db --image ./config.v1.json --writable --size 64G
  obdsup device list
  obdsup --json device show db
  obdsup device explain db         # why it is in its state, what was tried, what to do
  obdsup device handover db        # planned change of the worker, no I/O is lost
  obdsup device remove db          # fails while it is mounted
"""


def client(args: argparse.Namespace) -> ControlClient:
    """Speaks to the supervisor of ``--run-dir``."""
    return ControlClient(os.path.join(args.run_dir, SOCKET_NAME))


def _progress(args: argparse.Namespace) -> Any:
    return None if args.json else lambda text: print(text, file=sys.stderr, flush=True)


def create(args: argparse.Namespace) -> int:
    """``device create``."""
    if args.size is not None and not args.writable:
        raise ConfigError(
            "--size is only for --writable devices",
            hint="a read-only device has the size of its image",
        )
    size_bytes = parse_device_size(args.size) if args.size is not None else None
    memory_max = None
    if args.memory_max is not None:
        memory_max = parse_device_size(args.memory_max, "--memory-max")
    made = client(args).call(
        "device.create",
        name=args.name,
        image=os.path.abspath(args.image),
        writable=args.writable,
        size_bytes=size_bytes,
        provider=args.provider,
        restore=args.restore,
        devices_per_worker=args.devices_per_worker,
        memory_max=memory_max,
        on_progress=_progress(args),
    )
    if args.json:
        print_json(made)
    else:
        device = made.get("block_device") if isinstance(made, dict) else None
        print(f"{args.name}: {device or 'served, without a block device'}")
    return 0


def list_all(args: argparse.Namespace) -> int:
    """``device list``."""
    rows = client(args).call("device.list")
    print_json(rows) if args.json else print_devices(rows)
    return 0


def print_devices(rows: list[dict[str, Any]]) -> None:
    """As a table."""
    headings = ["NAME", "PHASE", "PROVIDER", "DEVICE", "SIZE", "RW", "GEN", "WORKER", "TAKEN OVER"]
    print_table(headings, [_cells(row) for row in rows])


def _cells(row: dict[str, Any]) -> list[object]:
    worker = row.get("worker") or {}
    last = row.get("last_takeover") or {}
    taken = f"{last['dur_ms']} ms, {last.get('cause', '')}" if last.get("dur_ms") else None
    return [
        row.get("name"),
        row.get("phase"),
        row.get("provider"),
        row.get("block_device"),
        size_text(row.get("size_bytes")),
        "rw" if row.get("writable") else "ro",
        row.get("generation"),
        worker.get("pid"),
        taken,
    ]


def show(args: argparse.Namespace) -> int:
    """``device show``."""
    row = client(args).call("device.show", name=args.name)
    print_json(row) if args.json else print_fields(row)
    return 0


def remove(args: argparse.Namespace) -> int:
    """``device remove``."""
    result = client(args).call("device.remove", name=args.name, on_progress=_progress(args))
    print_json(result) if args.json else print(f"{args.name}: removed")
    return 0


def hand_over(args: argparse.Namespace) -> int:
    """``device handover``."""
    result = client(args).call("device.handover", name=args.name, on_progress=_progress(args))
    if args.json:
        print_json(result)
        return 0
    stall = result.get("dur_ms") if isinstance(result, dict) else None
    print(f"{args.name}: handed over" + (f" in {stall} ms" if stall is not None else ""))
    return 0


def resume(args: argparse.Namespace) -> int:
    """``device resume``."""
    result = client(args).call("device.resume", name=args.name, on_progress=_progress(args))
    print_json(result) if args.json else print(f"{args.name}: served again")
    return 0


def add_parser(commands: Any, common: argparse.ArgumentParser) -> None:
    """Adds ``device`` and its sub-commands; ``common`` holds the options all of them take."""
    import argparse

    raw = argparse.RawDescriptionHelpFormatter
    parser = commands.add_parser(
        "device", help="create, list, show, remove, hand over", epilog=EXAMPLES, formatter_class=raw
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    new = actions.add_parser(
        "create",
        parents=[common],
        help="serve an image as a block device",
        description="Serves an overlaybd image as a block device and prints its path.",
        epilog=EXAMPLES,
        formatter_class=raw,
    )
    new.add_argument("name", help="what you call the device")
    new.add_argument("--image", required=True, metavar="CONFIG", help="its config.v1.json")
    new.add_argument("--writable", action="store_true", help="with a writable layer on top")
    new.add_argument("--size", metavar="SIZE", help="of a writable device, e.g. 64G (the image's)")
    new.add_argument(
        "--provider",
        choices=["auto", "tcmu", "fuse", "load"],
        help="who makes the ring (what the supervisor was started with)",
    )
    new.add_argument("--restore", action="store_true", help="made again after a boot of the host")
    new.add_argument(
        "--devices-per-worker", type=int, metavar="N",
        help="its worker may serve N devices of this kind (1)",
    )  # fmt: skip
    new.add_argument("--memory-max", metavar="SIZE", help="of its worker, e.g. 256M (no limit)")
    new.set_defaults(run=create)
    explain.add_action(actions, common)
    actions.add_parser("list", parents=[common], help="all devices").set_defaults(run=list_all)
    for name, run, text in (
        ("show", show, "everything about one device"),
        ("remove", remove, "take a device away; fails while it is in use"),
        ("handover", hand_over, "let the standby worker go on with it, without a kill"),
        ("resume", resume, "try again at once, also what is in quarantine"),
    ):
        one = actions.add_parser(name, parents=[common], help=text)
        one.add_argument("name", help="of the device")
        one.set_defaults(run=run)
