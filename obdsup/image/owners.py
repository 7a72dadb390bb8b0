"""Which files of an image have their blocks in some parts of its disk."""

from __future__ import annotations

import os
from typing import Any

from obdsup.errors import ObdError
from obdsup.format.config import ImageConfig
from obdsup.image.native import check, ffi, lib, new_info
from obdsup.image.spec import image_spec
from obdsup.image.tree import Tree

__all__ = ["files_in"]

_SECTOR_BYTES = 512


def files_in(image: ImageConfig, ranges: list[tuple[int, int]]) -> dict[str, int] | None:
    """{path: bytes in the ranges}, by path; None when there is no ext4, or no way through it.

    Args:
        ranges: bytes [begin, end) of the disk, in any order.

    A block of a file counts as a whole. What is nobody's is the file system's own, or free.
    """
    try:
        with Tree(image) as tree:
            owners = _owners(image, ranges)
            if not owners:
                return {}
            root = tree.find(b"/")
            found = {"/": owners[root.ino]} if root.ino in owners else {}
            for entry in tree.walk(root):
                if entry.ino in owners:
                    found["/" + os.fsdecode(entry.path)] = owners[entry.ino]
    except ObdError:
        return None
    return dict(sorted(found.items()))


def _joined(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sectors, in order, disjoint."""
    joined: list[tuple[int, int]] = []
    for begin_byte, end_byte in sorted(ranges):
        begin, end = begin_byte // _SECTOR_BYTES, -(-end_byte // _SECTOR_BYTES)
        if joined and begin <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((begin, end))
    return joined


def _owners(image: ImageConfig, ranges: list[tuple[int, int]]) -> dict[int, int]:
    keep: list[Any] = []
    joined = _joined(ranges)
    native = ffi.new("struct obd_disk_range[]", max(1, len(joined)))
    for position, (begin, end) in enumerate(joined):
        native[position].begin, native[position].end = begin, end
    info, found, count = new_info(), ffi.new("struct obd_owner **"), ffi.new("size_t *")
    spec = image_spec(image, keep)
    check(
        "look for files", lib.obd_owners_find(spec, native, len(joined), info, found, count), info
    )
    try:
        return {int(one.ino): int(one.bytes) for one in found[0][0 : count[0]]} if count[0] else {}
    finally:
        lib.obd_owners_free(found[0])
