"""``overlaybd-merge``: all read-only layers of a config into one."""

from __future__ import annotations

import argparse

from obdsup.cli.progress import progress
from obdsup.cli.reference.program import parser_of, refuse, run
from obdsup.image.commit import LayerOptions, write_layer
from obdsup.image.merge import sources_of
from obdsup.image.zfile import ZFileOptions

__all__ = ["main"]

_FALSE = ("0", "false", "off", "no")


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("overlaybd-merge", "Makes one layer of all lowers of a config.")
    parser.add_argument("--compress", default="true", metavar="BOOL", help="(true)")
    parser.add_argument("-t", dest="tar", action="store_true", help="in a tar")
    parser.add_argument("-f", dest="force", action="store_true", help="replace the output")
    parser.add_argument("--service_config_path", help="accepted; not needed")
    parser.add_argument("--upload", default="", metavar="URL")
    for ignored in ("--upload_bs", "--cred_file_path", "--tls_key_path", "--tls_cert_path"):
        parser.add_argument(ignored, help="goes with --upload")
    parser.add_argument("config", metavar="CONFIG")
    parser.add_argument("output", metavar="OUTPUT")
    return parser


def merge(arguments: list[str]) -> None:
    """Carries the command line out."""
    # a flag that may have a value, but only behind an equals sign: the next word is the config
    words = ["--compress=true" if word == "--compress" else word for word in arguments]
    args = _parser().parse_args(words)
    refuse("--upload", args.upload, "write the layer to a file and push that")
    is_compressed = args.compress.lower() not in _FALSE
    options = LayerOptions(
        ZFileOptions() if is_compressed else None, keeps_tags=True, in_tar=args.tar
    )
    sources = sources_of(args.config, with_upper=False)
    with progress("merge") as report:
        write_layer(sources, args.output, options, may_replace=args.force, report=report)
    print(f"{args.output}: merged")


def main() -> None:
    """The console script."""
    run(merge)
