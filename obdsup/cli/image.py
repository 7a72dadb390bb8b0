"""``obdsup image``: look at, check, export and make image files. Works without a supervisor."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from obdsup.cli.output import print_fields, print_json, size_text
from obdsup.cli.size import parse_device_size
from obdsup.errors import ConfigError, FormatError
from obdsup.format import layer, lsmt_header, zfile_header
from obdsup.format.blob import FileBlob
from obdsup.format.image import Image, Problem
from obdsup.format.layer_writer import LayerWriter
from obdsup.format.lsmt_header import NULL_UUID, parse_uuid
from obdsup.format.raw_disk import RawDisk
from obdsup.format.sink import SeekableSink, atomic_output
from obdsup.format.units import SECTOR_BYTES
from obdsup.format.upper import Upper
from obdsup.format.upper_writer import create_upper
from obdsup.format.zfile_header import Algorithm
from obdsup.format.zfile_writer import ZFileWriter

__all__ = ["add_parser"]

_BLOCK_SIZES = {f"{kib}k": kib * 1024 for kib in (4, 8, 16, 32, 64)}
_SHOWN_PROBLEMS = 100

_GROUP_EXAMPLES = """examples:
  obdsup image info config.v1.json
  obdsup image verify config.v1.json && obdsup image export config.v1.json --sha256
  obdsup image import disk.raw -o base.obd --zfile lz4
  obdsup image new-upper --size 64G upper.data upper.index

CONFIG is an overlaybd config.v1.json, LAYER one sealed layer file: raw, ZFile, in a tar or not.
"""


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], text: str, examples: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog="examples:\n" + examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--json", action="store_true", default=argparse.SUPPRESS, help="output for programs"
    )
    parser.set_defaults(run=run, usage_error=parser.error)
    return parser


def _block_size(text: str) -> int:
    sizes = _BLOCK_SIZES | {str(size): size for size in _BLOCK_SIZES.values()}
    if text.lower() not in sizes:
        raise argparse.ArgumentTypeError(f"expected {', '.join(_BLOCK_SIZES)}, found {text!r}")
    return sizes[text.lower()]


def add_parser(subparsers: Any) -> None:
    """Adds ``image`` and its commands; each sets its handler, ``args.run(args) -> int``."""
    group = subparsers.add_parser(
        "image",
        help="image files: info, verify, export, import, new-upper",
        description="Looks at, checks, exports and makes image files; needs no supervisor.",
        epilog=_GROUP_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = group.add_subparsers(dest="image_command", metavar="COMMAND", required=True)
    _add_readers(commands)
    _add_writers(commands)


def _add_readers(commands: Any) -> None:
    info = _command(
        commands,
        "info",
        run_info,
        "what an image or layer is made of",
        "  obdsup image info config.v1.json\n  obdsup image info --json layer.obd",
    )
    info.add_argument("image", metavar="CONFIG_OR_LAYER")
    verify = _command(
        commands,
        "verify",
        run_verify,
        "read every block of every layer and check it",
        "  obdsup image verify config.v1.json\n\n"
        "Exit code 11 when a block is damaged; each is named.",
    )
    verify.add_argument("image", metavar="CONFIG_OR_LAYER")
    export = _command(
        commands,
        "export",
        run_export,
        "the merged virtual disk as a raw file or as its digest",
        "  obdsup image export config.v1.json -o disk.raw\n"
        "  obdsup image export config.v1.json --sha256",
    )
    export.add_argument("image", metavar="CONFIG_OR_LAYER")
    export.add_argument("-o", "--output", metavar="DISK", help="sparse raw file to write")
    export.add_argument(
        "--sha256", action="store_true", help="print the digest of the whole disk, holes as zeros"
    )
    export.add_argument("--force", action="store_true", help="replace DISK when it exists")


def _add_writers(commands: Any) -> None:
    importer = _command(
        commands,
        "import",
        run_import,
        "make a sealed layer of a raw disk",
        "  obdsup image import disk.raw -o base.obd --zfile lz4\n"
        "  obdsup image import changed.raw -o top.obd --zfile zstd --base config.v1.json\n\n"
        "Zero sectors are not stored. With --base only sectors that differ from that image are.",
    )
    importer.add_argument("disk", metavar="DISK", help="raw disk: a file or block device")
    importer.add_argument("-o", "--output", metavar="LAYER", required=True)
    importer.add_argument(
        "--zfile", choices=["lz4", "zstd"], help="compress, with a checksum per block"
    )
    importer.add_argument(
        "--block-size",
        metavar="SIZE",
        type=_block_size,
        help="4k (default), 8k, 16k, 32k; other readers may refuse 64k",
    )
    importer.add_argument("--base", metavar="CONFIG", help="the image the new layer goes on top of")
    importer.add_argument("--uuid", metavar="UUID", help="of the layer (default: none)")
    importer.add_argument(
        "--parent",
        metavar="UUID",
        help="of the layer below (default: that of the base's top layer)",
    )
    importer.add_argument("--force", action="store_true", help="replace LAYER when it exists")
    upper = _command(
        commands,
        "new-upper",
        run_new_upper,
        "make an empty writable layer",
        "  obdsup image new-upper --size 64G upper.data upper.index",
    )
    upper.add_argument(
        "--size", metavar="SIZE", required=True, help="virtual size, as 64G or bytes"
    )
    upper.add_argument("data", metavar="DATA")
    upper.add_argument("index", metavar="INDEX")
    upper.add_argument("--force", action="store_true", help="replace the files when they exist")


def _is_layer(path: str) -> bool:
    """By content: a known magic is a layer, an object or the name .json a config."""
    blob = FileBlob(path)
    try:
        head = blob.read_at(0, min(blob.size, 512))
    finally:
        blob.close()
    if zfile_header.has_magic(head) or lsmt_header.has_magic(head) or head[257:262] == b"ustar":
        return True
    return not (path.endswith(".json") or head.lstrip()[:1] == b"{")


def open_image(path: str) -> Image:
    """The image of a config, or of a single layer file."""
    return Image.of_layer(path) if _is_layer(path) else Image.open(path)


@contextlib.contextmanager
def _progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr when that is a terminal, nothing otherwise."""
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda done: bar.update(task, completed=done)


def _show(args: argparse.Namespace, facts: dict[str, object]) -> None:
    if args.json:
        print_json(facts)
    else:
        print_fields({name.replace("_", " "): value for name, value in facts.items()})


def _lower_facts(lower: layer.LayerFile) -> dict[str, object]:
    header, segments = lower.layer.header, lower.layer.segments
    zfile = lower.zfile.header if lower.zfile is not None else None
    return {
        "file": lower.layer.path,
        "file_bytes": lower.file_bytes,
        "compression": zfile.algorithm.name.lower() if zfile else "none",
        "block_bytes": zfile.block_bytes if zfile else None,
        "has_block_crc": zfile.is_verified if zfile else False,
        "tar_base_bytes": lower.tar_base_bytes,
        "virtual_size_bytes": header.virtual_size_bytes,
        "uuid": header.uuid,
        "parent_uuid": header.parent_uuid,
        "user_tag": header.user_tag,
        "segments": len(segments),
        "data_bytes": sum(s.length for s in segments if not s.is_zeroed) * SECTOR_BYTES,
        "zeroed_bytes": sum(s.length for s in segments if s.is_zeroed) * SECTOR_BYTES,
    }


def _upper_facts(data: str, index: str, upper: Upper) -> dict[str, object]:
    return {
        "data": data,
        "index": index,
        "data_file_bytes": os.path.getsize(data),
        "virtual_size_bytes": upper.header.virtual_size_bytes,
        "uuid": upper.header.uuid,
        "records": upper.record_cnt,
        "segments": len(upper.map),
        "torn_tail_bytes": upper.torn_bytes,
    }


def run_info(args: argparse.Namespace) -> int:
    """Prints what the image is made of."""
    with open_image(args.image) as image:
        facts: dict[str, object] = {
            "image": args.image,
            "virtual_size_bytes": image.size_bytes,
            "mapped_bytes": sum(s.length for s in image.segments()) * SECTOR_BYTES,
            "lowers": [_lower_facts(lower) for lower in image.lowers],
            "upper": _upper_facts(*image.upper_paths, image.upper) if image.upper else None,
        }
    if args.json:
        print_json(facts)
        return 0
    print(f"{args.image}: virtual size {size_text(image.size_bytes)}, bottom to top:")
    for position, lower in enumerate(facts.pop("lowers")):  # type: ignore[var-annotated,arg-type]
        print(f"layer {position}")
        print_fields({k.replace("_", " "): v for k, v in lower.items()}, "  ")
    upper = facts["upper"]
    if isinstance(upper, dict):
        print("upper")
        print_fields({k.replace("_", " "): v for k, v in upper.items()}, "  ")
    return 0


def _problem_facts(image: Image, problem: Problem) -> dict[str, object]:
    error = problem.error
    is_upper = problem.layer == len(image.lowers)
    return {
        "layer": "upper" if is_upper else problem.layer,
        "file": str(error.fields.get("path", "")),
        "offset": error.fields.get("offset"),
        "message": error.what,
    }


def run_verify(args: argparse.Namespace) -> int:
    """Reads every block; the exit code of FormatError when one is damaged."""
    found: list[dict[str, object]] = []
    with open_image(args.image) as image:
        total = image.block_cnt()
        with _progress("verify", total) as progress:
            found.extend(_problem_facts(image, problem) for problem in image.problems(progress))
        facts: dict[str, object] = {
            "image": args.image,
            "ok": not found,
            "layers": len(image.lowers) + (image.upper is not None),
            "blocks": total,
            "torn_tail_bytes": image.upper.torn_bytes if image.upper else 0,
            "problem_count": len(found),
        }
    if args.json:
        print_json(facts | {"problems": found})
    else:
        for problem in found[:_SHOWN_PROBLEMS]:
            print(f"layer {problem['layer']}: {problem['message']}", file=sys.stderr)
        if len(found) > _SHOWN_PROBLEMS:
            print(f"… and {len(found) - _SHOWN_PROBLEMS} more", file=sys.stderr)
        _show(args, facts)
    return FormatError.exit_code if found else 0


def run_export(args: argparse.Namespace) -> int:
    """Writes the virtual disk, or prints its digest."""
    if not args.output and not args.sha256:
        args.usage_error("give -o DISK, --sha256 or both")
    with open_image(args.image) as image:
        facts: dict[str, object] = {"image": args.image, "virtual_size_bytes": image.size_bytes}
        if args.output:
            _refuse_own_files(args.output, image.file_paths)
            with _progress("export", image.size_bytes) as progress:
                _write_disk(image, args.output, may_replace=args.force, progress=progress)
            facts["output"] = args.output
        if args.sha256:
            with _progress("sha256", image.size_bytes) as progress:
                facts["sha256"] = image.sha256(progress)
    if args.json:
        print_json(facts)
    elif args.sha256:
        print(facts["sha256"])
    else:
        print(f"{args.output}: {image.size_bytes} bytes")
    return 0


def _write_disk(
    image: Image, path: str, *, may_replace: bool, progress: Callable[[int], None]
) -> None:
    with atomic_output(path, may_replace=may_replace) as file:
        file.truncate(image.size_bytes)
        for offset, data in image.stack.chunks():
            file.seek(offset)
            file.write(data)
            progress(offset + len(data))


def _refuse_own_files(output: str, inputs: list[str]) -> None:
    """An output may never replace a file it is made from, not with --force either."""
    for name in inputs:
        with contextlib.suppress(OSError):
            if os.path.samefile(output, name):
                raise ConfigError(f"{output}: is an input of this command too")


def run_import(args: argparse.Namespace) -> int:
    """Makes a layer of a raw disk."""
    if args.block_size and not args.zfile:
        args.usage_error("--block-size needs --zfile")
    with contextlib.ExitStack() as opened:
        disk = RawDisk(args.disk)
        opened.callback(disk.close)
        base = opened.enter_context(open_image(args.base)) if args.base else None
        _refuse_own_files(args.output, [args.disk, *(base.file_paths if base else [])])
        uuid = parse_uuid(args.uuid) if args.uuid else NULL_UUID
        parent = parse_uuid(args.parent) if args.parent else (base.top_uuid if base else NULL_UUID)
        progress = opened.enter_context(_progress("import", disk.size_bytes))
        with atomic_output(args.output, may_replace=args.force) as file:
            sink, finish = _layer_sink(file, args.zfile, args.block_size or 4096)
            writer = LayerWriter(sink, disk.size_bytes, uuid=uuid, parent_uuid=parent)
            disk.write_difference(writer, base.stack if base else None, progress)
            writer.finish()
            finish()
    segments = writer.segments
    _show(
        args,
        {
            "layer": args.output,
            "file_bytes": os.path.getsize(args.output),
            "virtual_size_bytes": disk.size_bytes,
            "segments": len(segments),
            "data_bytes": sum(s.length for s in segments if not s.is_zeroed) * SECTOR_BYTES,
            "zeroed_bytes": sum(s.length for s in segments if s.is_zeroed) * SECTOR_BYTES,
            "uuid": uuid,
            "parent_uuid": parent,
        },
    )
    return 0


def _layer_sink(
    file: SeekableSink, algorithm: str | None, block_bytes: int
) -> tuple[Any, Callable[[], None]]:
    if algorithm is None:
        return file, lambda: None
    zfile = ZFileWriter(file, Algorithm[algorithm.upper()], block_bytes)
    return zfile, zfile.finish


def run_new_upper(args: argparse.Namespace) -> int:
    """Makes an empty writable layer."""
    size_bytes = parse_device_size(args.size)
    uuid = create_upper(args.data, args.index, size_bytes, may_replace=args.force)
    facts: dict[str, object] = {
        "data": args.data,
        "index": args.index,
        "virtual_size_bytes": size_bytes,
        "uuid": uuid,
    }
    _show(args, facts)
    return 0
