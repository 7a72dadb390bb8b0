"""``make demo``: see the package's DESIGN.md. Exit 0: every zero is a zero, every kill landed.

Environment: DEMO_SECONDS (45), DEMO_SEED (random, printed), DEMO_PROVIDER (auto, fuse, tcmu).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
from pathlib import Path

from rich.console import Console

from chaos.demo import guest
from chaos.demo.course import Options, run_course
from chaos.demo.report import Outcome, print_table, problems, to_json
from chaos.demo.schedule import Rhythm
from chaos.rig import image
from chaos.rig.problem import REPO, RigError, say
from chaos.rig.recipes import REDIS

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


def main(arguments: list[str]) -> int:
    """Runs the demo and returns its exit code; ``out/demo.json`` is written unless interrupted."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt_once)
    signal.signal(signal.SIGINT, _interrupt_once)
    options.json.unlink(missing_ok=True)
    try:
        demo_image = image.build(options.cache, REDIS)
        if options.provider == "tcmu" and not guest.has_tcmu():
            return _in_guest(options)
        return _here(options, demo_image)
    except RigError as error:
        say(f"demo: FAILED: {error}")
        return EXIT_FAILED
    except KeyboardInterrupt:
        say("demo: interrupted; everything was taken down")
        return EXIT_INTERRUPTED


def _here(options: argparse.Namespace, demo_image: image.LayeredImage) -> int:
    say(f"demo: seed {options.seed}, {options.seconds:g} s (repeat with DEMO_SEED={options.seed})")
    outcome = Outcome()
    failure = ""
    try:
        run_course(
            Options(
                seconds=options.seconds,
                seed=options.seed,
                provider=options.provider,
                rhythm=Rhythm(options.worker_every, options.supervisor_every, options.both_every),
                patience_s=options.patience,
                pause_s=options.pause,
                log_folder=_log_folder(options),
            ),
            demo_image,
            outcome,
        )
    except RigError as error:
        failure = str(error)
    print_table(outcome, Console(width=100, height=100), failure)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(to_json(outcome, failure), indent=2) + "\n")
    say(f"written: {options.json}, logs in {_log_folder(options)}")
    return EXIT_FAILED if problems(outcome, failure) else 0


def _in_guest(options: argparse.Namespace) -> int:
    say("demo: this host's kernel has no TCMU: the demo runs in a guest that has (emulated, slow)")
    arguments = ["--json", str(options.json.absolute()), "--cache", str(options.cache.absolute())]
    for name in ("seconds", "seed", "worker_every", "supervisor_every", "both_every"):
        arguments += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    written = [options.json, _log_folder(options)]
    code = guest.run_in_guest(arguments, options.seconds, written)
    if not options.json.is_file():
        say(f"demo: FAILED: the guest (exit {code}) wrote no result")
        return code or EXIT_FAILED
    return code


def _log_folder(options: argparse.Namespace) -> Path:
    folder: Path = options.json.parent / "demo-logs"
    return folder


def _interrupt_once(_number: int, _frame: object) -> None:
    # A second Ctrl-C must not break off the taking down.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    environment, usual = os.environ, Rhythm()
    parser = argparse.ArgumentParser(prog="python -m chaos.demo", description=__doc__)
    add = parser.add_argument
    add("--seconds", type=float, default=float(environment.get("DEMO_SECONDS") or 45))
    add("--seed", type=int, default=int(environment.get("DEMO_SEED") or random.randrange(10**6)))
    add(
        "--provider",
        choices=("auto", "fuse", "tcmu"),
        default=environment.get("DEMO_PROVIDER") or "auto",
    )
    add("--worker-every", type=float, default=usual.worker_s, metavar="SECONDS")
    add("--supervisor-every", type=float, default=usual.supervisor_s, metavar="SECONDS")
    add("--both-every", type=float, default=usual.both_s, metavar="SECONDS")
    add("--patience", type=float, default=60.0, metavar="SECONDS", help="bound of each step")
    add("--pause", type=float, default=0.0, metavar="SECONDS", help="between a client's operations")
    add("--json", type=Path, default=REPO / "out" / "demo.json")
    add("--cache", type=Path, default=image.CACHE)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
