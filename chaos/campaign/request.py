"""What `obdsup-chaos run` is asked to do: its options, and the command that asks for it again."""

from __future__ import annotations

import argparse
import random
import shlex
from pathlib import Path

from chaos.rig.problem import REPO

__all__ = ["add_run_options", "campaign_name", "replay_command"]

DEFAULT_JSON = REPO / "out" / "chaos.json"
DEFAULT_KILLS = 200
SEEDS = 10**6


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``run``; their defaults are those of a short campaign."""
    what = parser.add_argument_group("what is tested, and where")
    what.add_argument(
        "--provider",
        choices=("load", "fuse", "tcmu"),
        default="load",
        help="load: ringd's own generator, native speed, no root file system; fuse: block devices "
        "on this host; tcmu: the kernel's, see --where (default: %(default)s)",
    )
    what.add_argument(
        "--where",
        choices=("host", "guest"),
        default="host",
        help="guest: in the QEMU guest, whose kernel has TCMU (emulated: slow)",
    )
    what.add_argument("--kernel", choices=("6.1", "6.12"), default="6.1", help="of the guest")
    what.add_argument(
        "--runtime", choices=("runc", "containerd"), default="runc", help="of containers"
    )
    how = parser.add_argument_group("faults and load")
    how.add_argument("--seed", type=int, help="of everything random (default: chosen and printed)")
    length = how.add_mutually_exclusive_group()
    length.add_argument(
        "--kills",
        type=int,
        metavar="N",
        help=f"faults that kill a serving worker; others come on top ({DEFAULT_KILLS})",
    )
    length.add_argument("--seconds", type=float, metavar="S", help="instead: as many as fit in")
    how.add_argument(
        "--faults",
        default="worker-kill",
        metavar="A,B",
        help="kinds, see `list`; all: each that can be inflicted there (default: %(default)s)",
    )
    how.add_argument(
        "--hooks",
        action="store_true",
        help="a build with named points: deaths between one store and the next",
    )
    how.add_argument(
        "--overlap",
        type=int,
        default=0,
        metavar="PERCENT",
        help="of the deaths strike while the fault before is still being recovered from (0)",
    )
    how.add_argument("--workloads", default="", metavar="A,B", help="see `list`; one device each")
    how.add_argument("--devices", type=int, default=0, metavar="N", help="of provider load (4)")
    how.add_argument("--standbys", type=int, default=0, metavar="N", help="kept warm (4, fuse 2)")
    how.add_argument("--pause", type=float, default=0.0, metavar="SECONDS", help="between a "
                     "client's operations, for slow machines")  # fmt: skip
    how.add_argument(
        "--patience", type=float, default=60.0, metavar="SECONDS", help="bound of each step (60)"
    )
    other = parser.add_argument_group(
        "another implementation, side by side: the same workload and schedule of kills"
    )
    other.add_argument("--external-device", type=Path, metavar="PATH", help="its block device")
    other.add_argument("--external-kill", metavar="CMD", help="kills its daemon (shell command)")
    other.add_argument(
        "--external-start",
        default="",
        metavar="CMD",
        help="starts it again after each kill, and at first when the device is not there",
    )
    parser.add_argument(
        "--json", type=Path, default=DEFAULT_JSON, help="result; -records.json and the report "
        "pages are written beside it (default: out/chaos.json)",
    )  # fmt: skip
    parser.add_argument("--no-report", action="store_true", help="only the JSON files")


def chosen_seed(options: argparse.Namespace) -> int:
    """The seed asked for, or one drawn now."""
    return options.seed if options.seed is not None else random.randrange(SEEDS)


def campaign_name(options: argparse.Namespace) -> str:
    """Short and telling: ``load``, ``fuse-runc``, ``tcmu-6.12-containerd``."""
    if options.external_device is not None:
        return "external"
    hooks = ["hooks"] if options.hooks else []
    if options.provider == "load":
        return "-".join(["load", *hooks])
    kernel = [options.kernel] if options.where == "guest" else []
    return "-".join([options.provider, *kernel, options.runtime, *hooks])


def replay_command(options: argparse.Namespace) -> str:
    """The command line that runs the same campaign again; the seed must be chosen."""
    words = ["obdsup-chaos", "run"]
    for name in ("provider", "where", "kernel", "runtime", "seed", "faults", "workloads"):
        if getattr(options, name) not in ("", None):
            words += [f"--{name}", str(getattr(options, name))]
    if options.seconds is not None:
        words += ["--seconds", f"{options.seconds:g}"]
    else:
        words += ["--kills", str(options.kills or DEFAULT_KILLS)]
    for name in ("devices", "standbys", "overlap", "pause"):
        if getattr(options, name):
            words += [f"--{name}", f"{getattr(options, name):g}"]
    if options.hooks:
        words.append("--hooks")
    for name in ("external_device", "external_kill", "external_start"):
        if getattr(options, name):
            words += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    return shlex.join(words)
