"""``overlaybd-zfile``: compress, extract and check ZFiles."""

from __future__ import annotations

import argparse

from obdsup.cli.progress import progress
from obdsup.cli.reference.program import add_zfile_arguments, parser_of, run, zfile_options
from obdsup.cli.zfile import open_source
from obdsup.image.zfile import check_zfile, compress, extract

__all__ = ["main"]


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("overlaybd-zfile", "Compresses a file block by block, or the way back.")
    parser.add_argument("-t", dest="tar", action="store_true", help="in a tar")
    parser.add_argument("-x", dest="extract", action="store_true", help="extract")
    parser.add_argument("--verify", action="store_true", help="check all blocks of SRC")
    parser.add_argument("-f", dest="force", action="store_true", help="replace DST")
    add_zfile_arguments(parser)
    parser.add_argument("source", metavar="SRC")
    parser.add_argument("target", metavar="DST", nargs="?", help="without: SRC is standard input")
    return parser


def zfile(arguments: list[str]) -> None:
    """Carries the command line out."""
    parser = _parser()
    args = parser.parse_args(arguments)
    if args.verify:
        _verify(args.source)
        return
    if args.extract:
        if args.target is None:
            parser.error("-x takes SRC DST: a ZFile is not read from a pipe")
        with progress("extract") as report:
            extract(args.source, args.target, may_replace=args.force, report=report)
        return
    source, target = args.source, args.target
    if target is None:
        source, target = "-", args.source
    with open_source(source) as descriptor, progress("compress") as report:
        compress(
            descriptor,
            "standard input" if source == "-" else source,
            target,
            zfile_options(args, overwrites_header=False),
            in_tar=args.tar,
            may_replace=args.force,
            report=report,
        )


def _verify(source: str) -> None:
    with progress("verify") as report:
        checked = check_zfile(source, report=report)
    for _, error in checked.damages:
        raise error
    print(f"{source}: {checked.block_cnt} blocks, all good")


def main() -> None:
    """The console script."""
    run(zfile)
