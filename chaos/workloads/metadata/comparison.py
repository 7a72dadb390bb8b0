"""The tree on the device against the model: every difference gets the name of its kind."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from chaos.workloads.metadata.model import Directory, File, Node, Symlink

__all__ = ["Difference", "compare_directory", "compare_node", "compare_tree"]

BLOCK_BYTES = 4096
PREFIX = "user."
Difference = tuple[str, str]  # kind of finding, line


def compare_tree(root: Path, model: Directory) -> Iterator[Difference]:
    """Everything below root, contents included.

    Raises:
        OSError: something could not be read for another reason than that it is not there.
    """
    yield from compare_directory(root, model)
    for name, node in model.entries.items():
        path = root / name
        if not os.path.lexists(path):
            continue  # said already
        if isinstance(node, Directory) and path.is_dir() and not path.is_symlink():
            yield from compare_tree(path, node)
        else:
            yield from compare_node(path, node)


def compare_directory(path: Path, model: Directory) -> Iterator[Difference]:
    """The names in one directory."""
    names = set(os.listdir(path))
    for name in sorted(model.entries.keys() - names):
        yield "lost", f"{path / name}: was made and is not there"
    for name in sorted(names - model.entries.keys()):
        yield "stale", f"{path / name}: was removed or never made, and is there"


def compare_node(path: Path, node: Node) -> Iterator[Difference]:
    """One name: kind, mode, links, size, content, attributes.

    Raises:
        OSError: it can not be read.
    """
    status = path.lstat()
    if stat.S_IFMT(status.st_mode) != _kind(node):
        yield "corrupt", f"{path}: mode {status.st_mode:o}, expected a {type(node).__name__}"
        return
    if isinstance(node, Symlink):
        if os.readlink(path) != node.target:
            yield "corrupt", f"{path}: points to {os.readlink(path)!r}, not {node.target!r}"
    elif isinstance(node, File):
        yield from _compare_file(path, status, node)


def _compare_file(path: Path, status: os.stat_result, node: File) -> Iterator[Difference]:
    mode = stat.S_IMODE(status.st_mode)
    if mode != node.mode:
        yield "stale", f"{path}: mode {mode:o}, expected {node.mode:o}"
    if status.st_nlink != node.link_cnt:
        yield "stale", f"{path}: {status.st_nlink} links, expected {node.link_cnt}"
    attributes = {
        name.removeprefix(PREFIX): os.getxattr(path, name, follow_symlinks=False)
        for name in os.listxattr(path, follow_symlinks=False)
    }
    if attributes != node.attributes:
        yield (
            "stale",
            f"{path}: attributes {sorted(attributes)}, expected {sorted(node.attributes)}",
        )
    content = path.read_bytes()
    if len(content) != len(node.content):
        yield "stale", f"{path}: {len(content)} bytes, expected {len(node.content)}"
    elif content != node.content:
        yield _content_difference(path, content, bytes(node.content))


def _content_difference(path: Path, found: bytes, expected: bytes) -> Difference:
    """The first block that differs: all zeros is lost, a block of another place misplaced."""
    begins = range(0, len(expected), BLOCK_BYTES)
    begin = next(b for b in begins if _block(found, b) != _block(expected, b))
    where, block = f"{path} at byte {begin}", _block(found, begin)
    if not any(block):
        return "lost", f"{where}: zeros instead of what was written"
    others = [b for b in begins if b != begin and _block(expected, b) == block]
    if others:
        return "misplaced", f"{where}: the data of byte {others[0]}"
    return "corrupt", f"{where}: not what was written"


def _block(content: bytes, begin: int) -> bytes:
    return content[begin : begin + BLOCK_BYTES]


def _kind(node: Node) -> int:
    kinds: dict[type[Node], int] = {
        File: stat.S_IFREG,
        Symlink: stat.S_IFLNK,
        Directory: stat.S_IFDIR,
    }
    return kinds[type(node)]
