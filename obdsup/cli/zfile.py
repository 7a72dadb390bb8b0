"""``obdsup zfile``: compress, extract and verify ZFiles of any content."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

from obdsup.cli.image.command import add_command, block_size, show
from obdsup.cli.image.opening import refuse_own_files
from obdsup.cli.output import print_json
from obdsup.cli.progress import progress
from obdsup.errors import ConfigError, FormatError
from obdsup.format.zfile_header import Algorithm
from obdsup.image.zfile import ZFileOptions, check_zfile, compress, extract, reference_warning

__all__ = ["add_parser", "open_source"]

_EXAMPLES = """examples:
  obdsup zfile compress disk.raw disk.zfile
  tar c folder | obdsup zfile compress --algorithm zstd --block-size 32k - folder.zfile
  obdsup zfile extract disk.zfile disk.raw
  obdsup zfile verify disk.zfile
"""


def add_parser(subparsers: Any) -> None:
    """Adds ``zfile`` and its commands."""
    group = subparsers.add_parser(
        "zfile",
        help="compressed files: compress, extract, verify",
        description="Compresses files block by block, and back; needs no supervisor.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = group.add_subparsers(dest="zfile_command", metavar="COMMAND", required=True)
    _add_compress(commands)
    _add_extract(commands)
    _add_verify(commands)


def _add_compress(commands: Any) -> None:
    parser = add_command(
        commands,
        "compress",
        run_compress,
        "make a ZFile",
        "  obdsup zfile compress disk.raw disk.zfile\n"
        "  zcat layer.tar.gz | obdsup zfile compress --algorithm zstd - layer.zfile",
    )
    parser.add_argument("source", metavar="SRC", help="a file, or - for standard input")
    parser.add_argument("target", metavar="DST")
    parser.add_argument(
        "--algorithm", choices=["lz4", "zstd"], default="lz4", help="lz4 (default) or zstd"
    )
    parser.add_argument(
        "--block-size",
        metavar="SIZE",
        type=block_size,
        default=4096,
        help="4k (default), 8k, 16k, 32k; other readers may refuse 64k",
    )
    parser.add_argument(
        "--no-verify", action="store_true", help="leave the checksum of each block out"
    )
    parser.add_argument("--tar", action="store_true", help="as the only member of a tar")
    _add_threads(parser)
    parser.add_argument("--force", action="store_true", help="replace DST when it exists")


def _add_extract(commands: Any) -> None:
    parser = add_command(
        commands,
        "extract",
        run_extract,
        "write what a ZFile holds",
        "  obdsup zfile extract disk.zfile disk.raw\n\n"
        "Every block is checked before it is written; DST appears whole or not at all.",
    )
    parser.add_argument("source", metavar="SRC", help="a ZFile, in a tar or not")
    parser.add_argument("target", metavar="DST")
    _add_threads(parser)
    parser.add_argument("--force", action="store_true", help="replace DST when it exists")


def _add_verify(commands: Any) -> None:
    parser = add_command(
        commands,
        "verify",
        run_verify,
        "read every block and check it",
        "  obdsup zfile verify disk.zfile\n\nExit code 11 when a block is damaged; each is named.",
    )
    parser.add_argument("source", metavar="SRC", help="a ZFile, in a tar or not")
    _add_threads(parser)


def _add_threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threads",
        metavar="N",
        type=int,
        default=0,
        help="that work (default: one per processor); the output is the same",
    )


@contextlib.contextmanager
def open_source(path: str) -> Iterator[int]:
    """A descriptor that gives the content: of the file, or standard input for ``-``.

    Raises:
        ConfigError: it can not be opened.
    """
    if path == "-":
        yield sys.stdin.fileno()
        return
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(f"{path}: can not be opened: {error.strerror}", path=path) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def run_compress(args: argparse.Namespace) -> int:
    """Makes a ZFile."""
    options = ZFileOptions(
        Algorithm[args.algorithm.upper()],
        args.block_size,
        has_crc=not args.no_verify,
        threads=args.threads,
    )
    with open_source(args.source) as source, progress("compress") as report:
        refuse_own_files(args.target, [args.source])
        made = compress(
            source,
            "standard input" if args.source == "-" else args.source,
            args.target,
            options,
            in_tar=args.tar,
            may_replace=args.force,
            report=report,
        )
    warning = reference_warning(made.longest_block_bytes)
    if warning:
        print(f"obdsup: {args.target}: {warning}", file=sys.stderr)
    show(
        args,
        {
            "zfile": args.target,
            "algorithm": args.algorithm,
            "block_bytes": args.block_size,
            "content_bytes": made.content_bytes,
            "file_bytes": os.path.getsize(args.target),
            "blocks": made.block_cnt,
            "is_readable_by_overlaybd": not warning,
        },
    )
    return 0


def run_extract(args: argparse.Namespace) -> int:
    """Writes what a ZFile holds."""
    refuse_own_files(args.target, [args.source])
    with progress("extract") as report:
        length = extract(
            args.source,
            args.target,
            threads=args.threads,
            may_replace=args.force,
            report=report,
        )
    show(args, {"output": args.target, "content_bytes": length})
    return 0


def run_verify(args: argparse.Namespace) -> int:
    """Checks all blocks; the exit code of FormatError when one is damaged."""
    with progress("verify") as report:
        checked = check_zfile(args.source, threads=args.threads, report=report)
    facts: dict[str, object] = {
        "zfile": args.source,
        "ok": not checked.damage_cnt,
        "blocks": checked.block_cnt,
        "content_bytes": checked.content_bytes,
        "problem_count": checked.damage_cnt,
    }
    if args.json:
        problems = [
            {"content_offset": offset, "offset": error.fields["offset"], "message": error.what}
            for offset, error in checked.damages
        ]
        print_json(facts | {"problems": problems})
    else:
        for offset, error in checked.damages:
            print(f"content at byte {offset}: {error.what}", file=sys.stderr)
        if checked.damage_cnt > len(checked.damages):
            print(f"… and {checked.damage_cnt - len(checked.damages)} more", file=sys.stderr)
        show(args, facts)
    return FormatError.exit_code if checked.damage_cnt else 0
