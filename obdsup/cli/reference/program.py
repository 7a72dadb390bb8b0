"""What the programs have in common: how they end, and options that mean nothing to ours."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from obdsup.errors import ConfigError, ObdError
from obdsup.format.zfile_header import Algorithm
from obdsup.image.zfile import ZFileOptions

__all__ = ["add_zfile_arguments", "parser_of", "refuse", "run", "zfile_options"]

_EXIT_INTERRUPTED = 130
_ALGORITHMS = ("lz4", "zstd")


def parser_of(name: str, text: str) -> argparse.ArgumentParser:
    """A parser that takes options as the reference's do: no abbreviations."""
    parser = argparse.ArgumentParser(prog=name, description=text, allow_abbrev=False)
    parser.add_argument("--verbose", action="store_true", help="accepted; nothing more is told")
    return parser


def add_zfile_arguments(parser: argparse.ArgumentParser) -> None:
    """``--algorithm`` and ``--bs``."""
    parser.add_argument("--algorithm", choices=_ALGORITHMS, default="lz4", help="lz4 or zstd")
    parser.add_argument(
        "--bs", type=int, choices=(4, 8, 16, 32, 64), default=4, help="block size in KiB (4)"
    )


def zfile_options(
    args: argparse.Namespace, *, overwrites_header: bool, threads: int = 0
) -> ZFileOptions:
    """What ``add_zfile_arguments`` read."""
    return ZFileOptions(
        Algorithm[args.algorithm.upper()],
        args.bs * 1024,
        overwrites_header=overwrites_header,
        threads=threads,
    )


def refuse(option: str, given: object, hint: str) -> None:
    """An option of the reference that ours does not offer.

    Raises:
        ConfigError: it was given.
    """
    if given:
        raise ConfigError(f"{option} is not offered", hint=hint)


def run(main: Callable[[list[str]], None]) -> None:
    """Runs ``main(arguments)`` and exits: 0, or the exit code of the error, which is told."""
    try:
        main(sys.argv[1:])
    except ObdError as error:
        print(f"{sys.argv[0].rsplit('/', 1)[-1]}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(_EXIT_INTERRUPTED)
