"""``obdsup image ls`` and ``cat``: the files in an image, without mounting it."""

from __future__ import annotations

import argparse
import os
import stat
import sys
import time
from collections.abc import Iterator
from typing import Any

from obdsup.cli.image.command import add_command
from obdsup.cli.image.opening import image_files
from obdsup.cli.output import print_json
from obdsup.image.tree import Entry, Tree

__all__ = ["add"]


def add(commands: Any) -> None:
    """Adds ``ls`` and ``cat``."""
    ls = add_command(
        commands,
        "ls",
        run_ls,
        "list files in an image, without mounting it",
        "  obdsup image ls config.v1.json\n"
        "  obdsup image ls --long layer.obd /etc\n"
        "  obdsup image ls --recursive --sha256 --json config.v1.json /usr/bin\n\n"
        "A layer alone can be listed when it holds a whole file system.",
    )
    ls.add_argument("image", metavar="CONFIG_OR_LAYER")
    ls.add_argument("path", metavar="PATH", nargs="?", default="/")
    ls.add_argument("-l", "--long", action="store_true", help="mode, owner, size, time, link")
    ls.add_argument("-R", "--recursive", action="store_true", help="and all below it")
    ls.add_argument("--sha256", action="store_true", help="with the digest of each file's content")
    cat = add_command(
        commands,
        "cat",
        run_cat,
        "write a file out of an image to stdout, without mounting it",
        "  obdsup image cat config.v1.json /etc/os-release\n"
        "  obdsup image cat layer.obd /bin/busybox > busybox",
    )
    cat.add_argument("image", metavar="CONFIG_OR_LAYER")
    cat.add_argument("path", metavar="PATH")


def _listed(tree: Tree, path: str, is_recursive: bool) -> Iterator[Entry]:
    top = tree.find(os.fsencode(path))
    if not top.is_directory:
        yield top
    elif is_recursive:
        yield from tree.walk(top)
    else:
        yield from tree.children(top)


def _facts(entry: Entry, digest: str) -> dict[str, object]:
    facts: dict[str, object] = {
        "path": os.fsdecode(entry.path),
        "type": entry.type_name,
        "mode": f"{entry.mode:o}",
        "uid": entry.uid,
        "gid": entry.gid,
        "mtime": entry.mtime_s,
        "mtime_ns": entry.mtime_ns,
        "links": entry.link_cnt,
        "xattrs": {name: value.hex() for name, value in entry.xattrs.items()},
    }
    if stat.S_ISREG(entry.mode):
        facts["size_bytes"] = entry.size_bytes
    if stat.S_ISLNK(entry.mode):
        facts["target"] = os.fsdecode(entry.target)
    if entry.device is not None:
        facts["device"] = "{}:{}".format(*entry.device)
    if digest:
        facts["sha256"] = digest
    return facts


def _printable(name: bytes) -> str:
    """What a name holds must not move the cursor of a terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in os.fsdecode(name))


def _line(entry: Entry, digest: str, is_long: bool) -> str:
    name = _printable(entry.path)
    if digest:
        name = f"{digest}  {name}"
    if not is_long:
        return name
    size = "{},{}".format(*entry.device) if entry.device else str(entry.size_bytes)
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(entry.mtime_s))
    target = f" -> {_printable(entry.target)}" if stat.S_ISLNK(entry.mode) else ""
    return (
        f"{stat.filemode(entry.mode)} {entry.link_cnt:3} {entry.uid:5} {entry.gid:5}"
        f" {size:>10} {when} {name}{target}"
    )


def run_ls(args: argparse.Namespace) -> int:
    """Lists a directory, or the one file."""
    found: list[dict[str, object]] = []
    with Tree(image_files(args.image)) as tree:
        for entry in _listed(tree, args.path, args.recursive):
            is_digested = args.sha256 and stat.S_ISREG(entry.mode)
            digest = tree.sha256(entry) if is_digested else ""
            if args.json:
                found.append(_facts(entry, digest))
            else:
                print(_line(entry, digest, args.long))
    if args.json:
        print_json({"image": args.image, "path": args.path, "entries": found})
    return 0


def run_cat(args: argparse.Namespace) -> int:
    """Writes one file's content to stdout."""
    with Tree(image_files(args.image)) as tree:
        entry = tree.find(os.fsencode(args.path))
        for piece in tree.read(entry):
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
    return 0
