"""``overlaybd-commit``: a writable layer into a sealed one, or sealed in place."""

from __future__ import annotations

import argparse

from obdsup.cli.progress import progress
from obdsup.cli.reference.program import add_zfile_arguments, parser_of, refuse, run, zfile_options
from obdsup.image.commit import LayerOptions, Sources, write_layer
from obdsup.image.seal import seal

__all__ = ["main"]


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("overlaybd-commit", "Makes a read-only layer of a writable one.")
    parser.add_argument("-m", dest="tag", metavar="TEXT", default="", help="user tag")
    parser.add_argument("--uuid", default="")
    parser.add_argument("-p", "--parent-uuid", dest="parent_uuid", default=None)
    parser.add_argument("-z", dest="zfile", action="store_true", help="compress")
    parser.add_argument("-t", dest="tar", action="store_true", help="in a tar; only with -z")
    parser.add_argument("-f", dest="force", action="store_true", help="replace the output")
    add_zfile_arguments(parser)
    parser.add_argument("--compress_threads", type=int, default=0, metavar="N")
    parser.add_argument("--seal", action="store_true", help="seal data in place, no output")
    parser.add_argument("--commit_sealed", action="store_true", help="data is sealed: DATA COMMIT")
    parser.add_argument("--turboOCI", "--fastoci", dest="turbo", action="store_true")
    parser.add_argument("--upload", default="", metavar="URL")
    for ignored in ("--upload_bs", "--cred_file_path", "--tls_key_path", "--tls_cert_path"):
        parser.add_argument(ignored, help="goes with --upload")
    parser.add_argument("data", metavar="DATA")
    parser.add_argument("index", metavar="INDEX", nargs="?")
    parser.add_argument("commit", metavar="COMMIT", nargs="?")
    return parser


def commit(arguments: list[str]) -> None:
    """Carries the command line out."""
    parser = _parser()
    args = parser.parse_args(arguments)
    refuse("--turboOCI", args.turbo, "commit the file-system metadata with overlaybd's own tool")
    refuse("--upload", args.upload, "write the layer to a file and push that")
    if args.tar and not args.zfile:
        parser.error("-t works only with -z")
    if args.seal:
        if args.index is None or args.commit is not None:
            parser.error("--seal takes DATA INDEX")
        seal(args.data, args.index)
        return
    if args.commit_sealed:
        if args.index is None or args.commit is not None:
            parser.error("--commit_sealed takes DATA COMMIT")
        sources, target = Sources((args.data,)), args.index
    else:
        if args.commit is None:
            parser.error("expected DATA INDEX COMMIT")
        sources, target = Sources(upper=(args.data, args.index)), args.commit
    zfile = None
    if args.zfile:
        zfile = zfile_options(args, overwrites_header=True, threads=args.compress_threads)
    options = LayerOptions(
        zfile,
        uuid=args.uuid,
        parent_uuid=args.parent_uuid,
        user_tag=args.tag,
        in_tar=args.tar,
    )
    with progress("commit") as report:
        write_layer(sources, target, options, may_replace=args.force, report=report)
    print(f"{target}: committed")


def main() -> None:
    """The console script."""
    run(commit)
