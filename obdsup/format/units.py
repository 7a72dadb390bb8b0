"""Units of the formats: LSMT counts 512-byte sectors, ZFile and files count bytes.

The two are distinct types, so that mixing them does not type-check; ranges are half-open.
"""

from __future__ import annotations

from typing import NewType

from obdsup.errors import ConfigError

__all__ = ["SECTOR_BYTES", "ByteCount", "Sectors", "to_bytes", "to_sectors"]

SECTOR_BYTES = 512

Sectors = NewType("Sectors", int)
ByteCount = NewType("ByteCount", int)


def to_bytes(count: Sectors) -> ByteCount:
    """Sectors as bytes."""
    return ByteCount(count * SECTOR_BYTES)


def to_sectors(count: int, what: str) -> Sectors:
    """Bytes as sectors; ``what`` names the number in the error.

    Raises:
        ConfigError: negative, or not a whole number of sectors.
    """
    if count < 0 or count % SECTOR_BYTES:
        raise ConfigError(f"{what}: expected a multiple of {SECTOR_BYTES} bytes, found {count}")
    return Sectors(count // SECTOR_BYTES)
