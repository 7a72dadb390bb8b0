"""The ``obdsup`` command. Exit codes: 0 done, 2 usage, 130 interrupted, else obdsup/errors.py.

Only what a command needs is imported: ``obdsup status`` is asked often.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys

import obdsup
from obdsup.errors import ObdError

__all__ = ["main"]

EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141

EPILOG = """examples:
  obdsup doctor                                   what this host offers and lacks
  obdsup supervisor                               run the supervisor in the foreground
  obdsup device create web --image /images/web/config.v1.json --writable --size 64G
  obdsup status                                   how it is, what is wrong, what to do
  obdsup top                                      devices under load, live
  obdsup events --follow                          what happens
  obdsup device explain web                       why a device is in its state
  obdsup image info /images/web/config.v1.json    files, without a supervisor

Exit codes: 0 done, 2 wrong usage, 10 to 21 one per kind of error (README), 130 interrupted.
"""
# What works on files brings its options only when it is the command: not to import all of it.
_FILE_COMMANDS = {
    "image": "image files: look at, check, convert, make",
    "zfile": "compressed files: compress, extract, verify",
}
_VALUE_OPTIONS = ("--run-dir", "--state-dir")


def split_command(arguments: list[str]) -> tuple[list[str], str, list[str]]:
    """Options before the command, the command ("" if none), what comes after it."""
    words = iter(range(len(arguments)))
    for position in words:
        word = arguments[position]
        if not word.startswith("-"):
            return arguments[:position], word, arguments[position + 1 :]
        if word in _VALUE_OPTIONS:
            next(words, None)
    return arguments, "", []


def _common_options(*, is_main: bool) -> argparse.ArgumentParser:
    """The options every command takes, before or after its name."""
    parser = argparse.ArgumentParser(add_help=False)

    def default(value: object) -> object:
        return value if is_main else argparse.SUPPRESS

    run_dir = os.environ.get("OBDSUP_RUN_DIR", "/run/obdsup")
    state_dir = os.environ.get("OBDSUP_STATE_DIR", "/var/lib/obdsup")
    parser.add_argument(
        "--run-dir", metavar="DIR", default=default(run_dir), help=f"sockets, journals ({run_dir})"
    )
    parser.add_argument(
        "--state-dir", metavar="DIR", default=default(state_dir), help=f"state ({state_dir})"
    )
    parser.add_argument(
        "--json", action="store_true", default=default(False), help="output for programs"
    )
    return parser


def build_parser(command: str) -> argparse.ArgumentParser:
    """The parser for ``command``; of other commands on files it knows the names only."""
    parser = argparse.ArgumentParser(
        prog="obdsup",
        parents=[_common_options(is_main=True)],
        description="Serves overlaybd container images as block devices through worker processes "
        "that may be killed at any moment.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"obdsup {obdsup.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    common = _common_options(is_main=False)
    commands.add_parser(
        "supervisor", add_help=False, help="run the supervisor in the foreground (see its --help)"
    )
    from obdsup.cli import adopt, device, doctor, events, reload, status, top, upgrade

    device.add_parser(commands, common)
    status.add_parser(commands, common)
    top.add_parser(commands, common)
    events.add_parser(commands, common)
    doctor.add_parser(commands, common)
    adopt.add_parsers(commands, common)
    upgrade.add_parser(commands, common)
    reload.add_parser(commands, common)
    for name, text in _FILE_COMMANDS.items():
        if command == name:
            importlib.import_module(f"obdsup.cli.{name}").add_parser(commands)
        else:
            commands.add_parser(name, help=text)
    return parser


def run_supervisor(before: list[str], after: list[str]) -> int:
    """Becomes the supervisor: same pid, so that systemd and a terminal speak to it directly."""
    options = _common_options(is_main=True).parse_args(before)
    directories = ["--run-dir", options.run_dir, "--state-dir", options.state_dir]
    from obdsup.state.program import program_command

    command = [*program_command("obdsup.supervisor"), *directories, *after]
    os.execv(command[0], command)


def run_command(arguments: list[str]) -> int:
    """Parses and carries out; the exit code.

    Raises:
        ObdError: what went wrong.
        SystemExit: wrong usage (2), or --help and --version (0).
    """
    before, command, after = split_command(arguments)
    if command == "supervisor":
        return run_supervisor(before, after)
    args = build_parser(command).parse_args(arguments)
    args.json = args.json or "--json" in before
    return int(args.run(args))


def main() -> None:
    """Runs the command and exits with its code."""
    arguments = sys.argv[1:]
    try:
        code = run_command(arguments)
        sys.stdout.flush()
    except ObdError as error:
        from obdsup.cli.output import print_error

        print_error(error, as_json="--json" in arguments)
        code = error.exit_code
    except KeyboardInterrupt:
        print("obdsup: interrupted", file=sys.stderr)
        code = EXIT_INTERRUPTED
    except BrokenPipeError:  # `obdsup device list | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = EXIT_BROKEN_PIPE
    sys.exit(code)


if __name__ == "__main__":
    main()
