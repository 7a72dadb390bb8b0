"""Makes a writable layer that took many writes before: the history a take-over must not pay for."""

from __future__ import annotations

import os
import random
import struct
from pathlib import Path

__all__ = ["RECORD_SECTORS", "append_history"]

RECORD_SECTORS = 8
HEADER_BYTES = 4096
_RECORD = struct.Struct("<QQ")


def append_history(data: Path, index: Path, count: int, size_bytes: int, seed: int) -> None:
    """Appends ``count`` index records of 4 KiB at random places, each with its own extent.

    The extents are holes of the data file, so the disk still reads as zeros everywhere: what the
    load's checker expects of a disk it has not written yet. Index entry: overlaybd-formats 1.4.

    Args:
        data: data file of an empty append-mode upper.
        index: its index file.
        count: number of records.
        size_bytes: virtual size of the disk.
        seed: of the places.
    """
    places = random.Random(seed)
    pages = size_bytes // (RECORD_SECTORS * 512)
    first_sector = data.stat().st_size // 512
    records = bytearray()
    for number in range(count):
        offset = places.randrange(pages) * RECORD_SECTORS
        records += _RECORD.pack(
            offset | RECORD_SECTORS << 50, first_sector + number * RECORD_SECTORS
        )
    os.truncate(data, (first_sector + count * RECORD_SECTORS) * 512)
    with index.open("ab") as file:
        file.write(records)
