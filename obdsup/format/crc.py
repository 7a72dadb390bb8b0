"""Raw CRC-32C: reflected polynomial 0x82F63B78, register = seed, no inversion at either end.

ZFile uses it for headers (seed 0), jump tables (seed 0) and blocks (seed ``BLOCK_SEED``). The
library's ``extend`` inverts before and after, so inverting its argument and its result undoes both.
Source: overlaybd-formats 2.3.
"""

from __future__ import annotations

import google_crc32c

__all__ = ["BLOCK_SEED", "crc32c_raw"]

BLOCK_SEED = 100007
_ALL_ONES = 0xFFFFFFFF


def crc32c_raw(seed: int, data: bytes) -> int:
    """The register after ``data``, started at ``seed``; raw(raw(s, a), b) = raw(s, a + b)."""
    value: int = google_crc32c.extend(seed ^ _ALL_ONES, data)
    return value ^ _ALL_ONES
