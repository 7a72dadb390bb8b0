"""Compression of one ZFile block: a raw LZ4 block or a Zstandard frame.

Both directions are exact and bounded: whatever the input claims, no more is allocated than the
caller's expected length. Source: overlaybd-formats 2.4.
"""

from __future__ import annotations

from collections.abc import Callable

import lz4.block
import zstandard

from obdsup.format.zfile_header import Algorithm

__all__ = ["BlockError", "compress_bound", "compressor", "decompressor"]

_ZSTD_LEVEL = 3  # what the reference runs at


class BlockError(ValueError):
    """A block does not decompress to the expected length; readers name the place around it."""


def compress_bound(length: int) -> int:
    """No encoder stores a block of ``length`` bytes in more than this, CRC left out."""
    return length + length // 128 + 128


def compressor(algorithm: Algorithm) -> Callable[[bytes], bytes]:
    """A function from a block to its stored form; one per thread."""
    if algorithm is Algorithm.LZ4:

        def lz4_block(data: bytes) -> bytes:
            stored: bytes = lz4.block.compress(data, store_size=False)
            return stored

        return lz4_block
    return zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress


def _unlz4(data: bytes, length: int) -> bytes:
    try:
        block: bytes = lz4.block.decompress(data, uncompressed_size=length)
    except lz4.block.LZ4BlockError as error:
        raise BlockError(str(error)) from error
    if len(block) != length:
        raise BlockError(f"{len(block)} bytes")
    return block


def decompressor(algorithm: Algorithm) -> Callable[[bytes, int], bytes]:
    """A function (stored form, expected length) -> block, or BlockError; one per thread."""
    if algorithm is Algorithm.LZ4:
        return _unlz4
    context = zstandard.ZstdDecompressor(max_window_size=1 << 27)

    def unzstd(data: bytes, length: int) -> bytes:
        try:
            # A frame is decompressed into what it claims to hold: look before allocating that.
            claimed = zstandard.frame_content_size(data)
            if claimed not in (-1, length):
                raise BlockError(f"a frame of {claimed} bytes")
            block = context.decompress(data, max_output_size=length, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise BlockError(str(error)) from error
        if len(block) != length:
            raise BlockError(f"{len(block)} bytes")
        return block

    return unzstd
