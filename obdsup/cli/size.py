"""Sizes as people write them: ``64G``, ``512M``, ``4k``, plain bytes."""

from __future__ import annotations

from obdsup.errors import ConfigError

__all__ = ["parse_device_size"]

SECTOR_BYTES = 512
MAX_SIZE_BYTES = 1 << 50
_FACTORS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def parse_device_size(text: str, option: str = "--size") -> int:
    """The size of a device in bytes.

    Raises:
        ConfigError: not a size, 0, not a multiple of 512, or beyond 1 PiB.
    """
    lowered = text.strip().lower().removesuffix("ib").removesuffix("b")
    digits = lowered.rstrip("kmgt")
    unit = lowered[len(digits) :]
    hint = "write it as 64G, 512M or in bytes"
    if not (digits.isascii() and digits.isdigit()) or unit not in _FACTORS or len(digits) > 19:
        raise ConfigError(f"{option} {text!r} is not a size", hint=hint)
    size_bytes = int(digits) * _FACTORS[unit]
    if size_bytes == 0:
        raise ConfigError(f"{option} {text!r}: a device can not be empty", hint=hint)
    if size_bytes % SECTOR_BYTES:
        raise ConfigError(
            f"{option} {text!r}: expected a multiple of {SECTOR_BYTES} bytes, "
            f"found {size_bytes} ({size_bytes % SECTOR_BYTES} too many)",
            hint=hint,
        )
    if size_bytes > MAX_SIZE_BYTES:
        raise ConfigError(f"{option} {text!r}: expected at most 1024T", hint=hint)
    return size_bytes
