"""The jump table of a ZFile: one little-endian u32 per block, its stored length with its CRC.

Block 0 starts right after the header area; block i + 1 starts where block i ends.
Source: overlaybd-formats 2.4.
"""

from __future__ import annotations

import sys
from array import array
from itertools import accumulate

from obdsup.errors import FormatError

__all__ = ["ENTRY_BYTES", "JumpTable", "encode"]

ENTRY_BYTES = 4
CRC_BYTES = 4


def _u32_array(raw: bytes = b"") -> array[int]:
    values: array[int] = array("I")
    assert values.itemsize == ENTRY_BYTES
    values.frombytes(raw)
    if sys.byteorder == "big":
        values.byteswap()
    return values


def encode(stored_lengths: list[int]) -> bytes:
    """The table as it stands in the file."""
    values = _u32_array()
    values.extend(stored_lengths)
    if sys.byteorder == "big":
        values.byteswap()
    return values.tobytes()


class JumpTable:
    """Where each block starts: ``starts[i]`` to ``starts[i + 1]``, CRC included, in bytes."""

    def __init__(
        self, raw: bytes, path: str, at: int, *, first_block: int, blocks_end: int, has_crc: bool
    ) -> None:
        """Validates the table read from byte ``at`` of ``path``.

        Raises:
            FormatError: an empty block, or blocks that run past ``blocks_end``.
        """
        lengths = _u32_array(raw)
        least = 1 + (CRC_BYTES if has_crc else 0)
        if lengths and min(lengths) < least:
            position = next(i for i, length in enumerate(lengths) if length < least)
            raise FormatError(
                path,
                at + position * ENTRY_BYTES,
                f"at least {least} bytes",
                lengths[position],
                field=f"jump table entry {position}",
            )
        self.starts: array[int] = array("Q", accumulate(lengths, initial=first_block))
        if self.starts[-1] > blocks_end:
            position = next(i for i, start in enumerate(self.starts) if start > blocks_end) - 1
            raise FormatError(
                path,
                at + position * ENTRY_BYTES,
                f"blocks that end by byte {blocks_end}",
                f"an end at {self.starts[position + 1]}",
                field=f"jump table entry {position}",
            )

    def __len__(self) -> int:
        return len(self.starts) - 1
