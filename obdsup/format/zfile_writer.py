"""Writes a ZFile from a stream of bytes, in the form the reference's ``commit -z`` writes.

Header, blocks each followed by its CRC, jump table, sealed trailer; then the header is written
again with the trailer's index fields and bit 3 set. Source: overlaybd-formats 2.5.
"""

from __future__ import annotations

from dataclasses import replace

from obdsup.errors import ConfigError
from obdsup.format import jump_table, zfile_header
from obdsup.format.codec import compressor
from obdsup.format.crc import BLOCK_SEED, crc32c_raw
from obdsup.format.sink import SeekableSink
from obdsup.format.zfile_header import Algorithm, ZFileFlags, ZFileHeader

__all__ = ["ZFileWriter"]

_FIRST = ZFileFlags.HEADER | ZFileFlags.DATA | ZFileFlags.DIGEST
_LAST = ZFileFlags.DATA | ZFileFlags.SEALED | ZFileFlags.DIGEST


class ZFileWriter:
    """A sink that compresses into another, which the caller owns; complete after ``finish``."""

    def __init__(
        self,
        sink: SeekableSink,
        algorithm: Algorithm,
        block_bytes: int,
        *,
        is_verified: bool = True,
        overwrites_header: bool = True,
    ) -> None:
        """Starts a ZFile at the position of ``sink``, which must be 0.

        Raises:
            ConfigError: a block size other than 4, 8, 16, 32 or 64 KiB.
        """
        if block_bytes not in (4096, 8192, 16384, 32768, 65536):
            raise ConfigError(f"block size: expected 4k, 8k, 16k, 32k or 64k, found {block_bytes}")
        self._sink = sink
        self._overwrites_header = overwrites_header
        self._compress = compressor(algorithm)
        self._pending = bytearray()
        self._stored_lengths: list[int] = []
        self._original_bytes = 0
        self._header = ZFileHeader(_FIRST, algorithm, block_bytes, is_verified)
        self._end = zfile_header.AREA_BYTES
        sink.write(zfile_header.encode(self._header))

    def write(self, data: bytes) -> None:
        """Appends to the content."""
        self._pending += data
        size = self._header.block_bytes
        whole = len(self._pending) - len(self._pending) % size
        for begin in range(0, whole, size):
            self._write_block(bytes(self._pending[begin : begin + size]))
        del self._pending[:whole]

    def _write_block(self, block: bytes) -> None:
        stored = self._compress(block)
        if self._header.is_verified:
            stored += crc32c_raw(BLOCK_SEED, stored).to_bytes(4, "little")
        self._sink.write(stored)
        self._stored_lengths.append(len(stored))
        self._original_bytes += len(block)
        self._end += len(stored)

    def finish(self) -> None:
        """Writes the last block, the table, the trailer and the header; nothing may follow."""
        if self._pending:
            self._write_block(bytes(self._pending))
            self._pending.clear()
        table = jump_table.encode(self._stored_lengths)
        self._sink.write(table)
        trailer = replace(
            self._header,
            flags=_LAST,
            index_offset_bytes=self._end,
            index_entry_cnt=len(self._stored_lengths),
            original_bytes=self._original_bytes,
            index_crc=crc32c_raw(0, table),
        )
        self._sink.write(zfile_header.encode(trailer))
        if self._overwrites_header:
            header = replace(trailer, flags=_FIRST | ZFileFlags.OVERWRITTEN)
            self._sink.seek(0)
            self._sink.write(zfile_header.encode(header))
