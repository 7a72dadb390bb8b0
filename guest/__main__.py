"""``python -m guest prepare|run``: the command line of the guest."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
from pathlib import Path

from guest import kernel, machine
from guest.problem import GuestError, GuestLockup

_CHECKOUT = Path(__file__).resolve().parent.parent
_BUILD = _CHECKOUT / "build" / "guest"
_PASSED_PREFIXES = ("OBDSUP_", "DEMO_", "CHAOS_")
_EXIT_GUEST_FAILED = 125


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m guest", description=__doc__)
    commands = parser.add_subparsers(dest="verb", required=True)
    prepare = commands.add_parser("prepare", help="download and build what the guest needs")
    run = commands.add_parser("run", help="boot the guest, run a command, return its exit code")
    for sub in (prepare, run):
        sub.add_argument("--kernel", choices=sorted(kernel.VERSIONS), default="6.1")
    run.add_argument("--memory", default="2G", help="as QEMU's -m (default %(default)s)")
    run.add_argument("--cpus", type=int, default=2)
    run.add_argument("--timeout", type=float, default=600.0, metavar="SECONDS")
    run.add_argument(
        "--init", choices=["command", "systemd"], default="command",
        help="what PID 1 is: the command's shell, or systemd with the command as a unit of it",
    )  # fmt: skip
    run.add_argument("--result", type=Path, help="folder for status, dmesg, console.log")
    run.add_argument(
        "--env", action="append", default=[], metavar="NAME[=VALUE]",
        help="pass a variable; those that start with OBDSUP_, DEMO_ or CHAOS_ are passed anyway",
    )  # fmt: skip
    run.add_argument(
        "--copy-back", action="append", default=[], type=Path, metavar="PATH",
        help="file or folder to copy from the guest to the host when the command ended",
    )  # fmt: skip
    run.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND...")
    return parser


def _environment(wanted: list[str]) -> dict[str, str]:
    passed = {n: v for n, v in os.environ.items() if n.startswith(_PASSED_PREFIXES)}
    for word in wanted:
        name, separator, value = word.partition("=")
        if separator:
            passed[name] = value
        elif name in os.environ:
            passed[name] = os.environ[name]
    # The command's terminal is a serial line: only as clever as what reads us.
    terminal = os.environ.get("TERM", "dumb") if sys.stdout.isatty() else "dumb"
    passed.setdefault("TERM", terminal)
    passed.setdefault("COLUMNS", str(shutil.get_terminal_size((100, 24)).columns))
    return passed | {"GUEST_RESULT": "/result"}


def _interrupted(number: int, _frame: object) -> None:
    sys.exit(128 + number)


def main(arguments: list[str] | None = None) -> int:
    """Returns the command's exit code, or 125 when the guest itself failed."""
    parser = _parser()
    options = parser.parse_args(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupted)  # leaves every block, so the guest ends too
    try:
        image = kernel.prepare(_BUILD, options.kernel, _say)
        if options.verb == "prepare":
            return 0
        command = options.command[1:] if options.command[:1] == ["--"] else options.command
        if not command:
            parser.error("run: a command is missing")
        request = machine.Request(
            command=command,
            cwd=Path.cwd(),
            timeout_s=options.timeout,
            memory=options.memory,
            cpus=options.cpus,
            environment=_environment(options.env),
            copy_back=tuple(path.absolute() for path in options.copy_back),
            init=options.init,
        )
        try:
            return machine.run(request, image, options.result).status
        except GuestLockup as lockup:
            _say(f"guest: {lockup}\nguest: booting once more")
            return machine.run(request, image, options.result).status
    except GuestError as error:
        _say(f"guest: {error}")
        return _EXIT_GUEST_FAILED


if __name__ == "__main__":
    raise SystemExit(main())
