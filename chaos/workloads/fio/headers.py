"""The headers fio left on the device: is a block of this lap or an older one?

fio 3.33 ``struct verify_header``, little-endian: magic 0xacca @0, type @2, length @4, random number
of the block @8, offset @16. Every write draws a new random number of 64 bits.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Sequence
from pathlib import Path

from chaos.workloads.fio.job import HEADER_INTERVAL_BYTES, Chunk

__all__ = ["older_blocks", "read_numbers"]

MAGIC = 0xACCA
HEADER = struct.Struct("<HHIQ")
READ_BYTES = 1 << 20


def read_numbers(device: Path, chunk: Chunk) -> list[int]:
    """The random number in each header of a chunk, read past the page cache; 0 for no header.

    Raises:
        OSError: a read failed.
    """
    numbers = []
    fd = os.open(device, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    try:
        with mmap.mmap(-1, READ_BYTES) as buffer:  # page aligned, as O_DIRECT wants it
            for begin in range(0, chunk.size_bytes, READ_BYTES):
                with memoryview(buffer)[: min(READ_BYTES, chunk.size_bytes - begin)] as window:
                    count = os.preadv(fd, [window], chunk.offset_bytes + begin)
                    for offset in range(0, count, HEADER_INTERVAL_BYTES):
                        magic, _, _, number = HEADER.unpack_from(window, offset)
                        numbers.append(number if magic == MAGIC else 0)
    finally:
        os.close(fd)
    return numbers


def older_blocks(found: Sequence[int], expected: Sequence[int]) -> list[int]:
    """Where a header is there but not the one expected: an older block in place of the newest."""
    pairs = enumerate(zip(found, expected, strict=True))
    return [index for index, (is_now, was) in pairs if is_now and is_now != was]
