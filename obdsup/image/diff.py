"""Where the disks of two images differ, sector by sector."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from obdsup.format.config import ImageConfig
from obdsup.image import long_call
from obdsup.image.long_call import Report
from obdsup.image.native import check, ffi, lib, new_info
from obdsup.image.spec import image_spec

__all__ = ["Difference", "compare_disks", "disk_spec"]

SECTOR_BYTES = 512


@dataclass(frozen=True)
class Difference:
    """What ``compare_disks`` found.

    Attributes:
        ranges: byte ranges [begin, end), in order; the first of ``range_cnt``.
        differing_bytes: of all of them.
    """

    left_bytes: int
    right_bytes: int
    differing_bytes: int
    range_cnt: int
    ranges: list[tuple[int, int]]

    @property
    def is_equal(self) -> bool:
        """Whether the two disks hold the same and are of one size."""
        return self.range_cnt == 0 and self.left_bytes == self.right_bytes


def disk_spec(disk: ImageConfig | str, keep: list[Any]) -> Any:
    """A ``struct obd_disk_spec`` of an image or of the path of a raw disk; ``keep`` must live."""
    spec = ffi.new("struct obd_disk_spec *")
    keep.append(spec)
    if isinstance(disk, str):
        keep.append(ffi.new("char[]", os.fsencode(disk)))
        spec.raw_path = keep[-1]
    else:
        spec.image = image_spec(disk, keep)
    return spec


def compare_disks(
    left: ImageConfig | str,
    right: ImageConfig | str,
    *,
    max_ranges: int = 1_000_000,
    report: Report | None = None,
) -> Difference:
    """Compares two disks; beyond its end a disk is zeros. A ``str`` names a raw disk.

    Holes of both are not read.

    Raises:
        ConfigError, FormatError, NativeError: one can not be opened or read.
    """
    keep: list[Any] = []
    specs = disk_spec(left, keep), disk_spec(right, keep)
    info, found = new_info(), ffi.new("struct obd_disk_ranges *")
    code = long_call.run(
        lambda progress: int(lib.obd_disk_compare(*specs, max_ranges, 0, progress, info, found)),
        report,
    )
    check("compare", code, info)
    try:
        return Difference(
            left_bytes=int(found.left_bytes),
            right_bytes=int(found.right_bytes),
            differing_bytes=int(found.differing_bytes),
            range_cnt=int(found.range_cnt),
            ranges=list(_merged(found)),
        )
    finally:
        lib.obd_disk_ranges_deinit(found)


def _merged(found: Any) -> Iterator[tuple[int, int]]:
    """Without the difference between zeros and other content: neighbours are one range."""
    begin = end = 0
    for one in found.at[0 : found.cnt]:
        if int(one.begin) != end:
            if begin < end:
                yield begin * SECTOR_BYTES, end * SECTOR_BYTES
            begin = int(one.begin)
        end = int(one.end)
    if begin < end:
        yield begin * SECTOR_BYTES, end * SECTOR_BYTES
