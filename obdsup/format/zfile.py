"""Reads a ZFile: [512 header][blocks][u32 jump table][512 trailer], as a blob of its content.

The header says where the table is when its bit 3 is set; otherwise the trailer at the end does.
A block that fails its CRC or does not decompress fails only the reads that touch it.
Source: overlaybd-formats 2.
"""

from __future__ import annotations

from obdsup.errors import FormatError
from obdsup.format import jump_table, zfile_header
from obdsup.format.blob import Blob, check_range
from obdsup.format.codec import BlockError, compress_bound, decompressor
from obdsup.format.crc import BLOCK_SEED, crc32c_raw
from obdsup.format.jump_table import CRC_BYTES, JumpTable
from obdsup.format.zfile_header import AREA_BYTES, ZFileFlags, ZFileHeader

__all__ = ["ZFile", "is_zfile"]

_BATCH_BYTES = 1 << 20


def is_zfile(blob: Blob) -> bool:
    """Whether the blob starts with the ZFile magic."""
    return blob.size >= AREA_BYTES and zfile_header.has_magic(blob.read_at(0, AREA_BYTES))


class ZFile:
    """The decompressed content of a ZFile; owns the blob it reads. For one thread at a time."""

    def __init__(self, inner: Blob) -> None:
        """Reads header, trailer and jump table; takes ``inner`` over.

        Raises:
            FormatError: any of them is wrong, or does not fit the file.
        """
        self.path = inner.path
        self._inner = inner
        self.header = self._read_header()
        self.size = self.header.original_bytes
        self.table = self._read_table()
        self._decompress = decompressor(self.header.algorithm)
        self._cached_position = -1
        self._cached_block = b""

    def _read_header(self) -> ZFileHeader:
        inner, path = self._inner, self.path
        first = zfile_header.decode(inner.read_at(0, min(AREA_BYTES, inner.size)), path, 0)
        if not first.flags & ZFileFlags.HEADER or not first.flags & ZFileFlags.DATA:
            raise FormatError(
                path, 32, "a header of a data file", f"{first.flags!r}", field="flags"
            )
        if first.flags & ZFileFlags.OVERWRITTEN:
            return first
        at = inner.size - AREA_BYTES
        if at < AREA_BYTES:
            raise FormatError(path, inner.size, "a trailer of 512 bytes", "end of file")
        last = zfile_header.decode(inner.read_at(at, AREA_BYTES), path, at)
        wanted = ZFileFlags.DATA | ZFileFlags.SEALED
        if last.flags & (wanted | ZFileFlags.HEADER) != wanted:
            raise FormatError(path, at + 32, "a sealed trailer", f"{last.flags!r}", field="flags")
        if (first.algorithm, first.block_bytes, first.is_verified) != (
            last.algorithm,
            last.block_bytes,
            last.is_verified,
        ):
            raise FormatError(
                path,
                at + 72,
                f"the header's {first.algorithm.name}, {first.block_bytes}, {first.is_verified}",
                f"{last.algorithm.name}, {last.block_bytes}, {last.is_verified}",
                field="block_size, algo, verify",
            )
        return last

    def _read_table(self) -> JumpTable:
        header, inner = self.header, self._inner
        block_cnt = -(-header.original_bytes // header.block_bytes)
        if header.index_entry_cnt != block_cnt:
            raise FormatError(
                self.path, 48, f"{block_cnt} blocks", header.index_entry_cnt, field="index_size"
            )
        at, length = header.index_offset_bytes, block_cnt * jump_table.ENTRY_BYTES
        if at < AREA_BYTES or at + length > inner.size:
            raise FormatError(
                self.path,
                40,
                f"a table of {length} bytes inside [{AREA_BYTES}, {inner.size})",
                f"an offset of {at}",
                field="index_offset",
            )
        raw = inner.read_at(at, length)
        if header.flags & ZFileFlags.DIGEST:
            crc = crc32c_raw(0, raw)
            if crc != header.index_crc:
                raise FormatError(
                    self.path, at, f"{header.index_crc:#010x}", f"{crc:#010x}", field="index_crc"
                )
        return JumpTable(
            raw,
            self.path,
            at,
            first_block=AREA_BYTES,
            blocks_end=at,
            has_crc=header.is_verified,
        )

    def _block_length(self, position: int) -> int:
        return min(self.header.block_bytes, self.size - position * self.header.block_bytes)

    def _open_block(self, position: int, stored: bytes) -> bytes:
        at = self.table.starts[position]
        field = f"block {position} of {len(self.table)}"
        if self.header.is_verified:
            body, tail = stored[:-CRC_BYTES], stored[-CRC_BYTES:]
            crc, recorded = crc32c_raw(BLOCK_SEED, body), int.from_bytes(tail, "little")
            if crc != recorded:
                raise FormatError(
                    self.path, at, f"CRC {recorded:#010x}", f"CRC {crc:#010x}", field=field
                )
        else:
            body = stored
        expected = self._block_length(position)
        try:
            return self._decompress(body, expected)
        except BlockError as error:
            raise FormatError(self.path, at, f"{expected} bytes", error, field=field) from error

    def read_block(self, position: int) -> bytes:
        """One block, checked against its CRC.

        Raises:
            FormatError: wrong CRC, or it does not decompress to the right length.
        """
        if position != self._cached_position:
            begin, end = self.table.starts[position], self.table.starts[position + 1]
            self._check_stored(position, end - begin)
            block = self._open_block(position, self._inner.read_at(begin, end - begin))
            self._cached_position, self._cached_block = position, block
        return self._cached_block

    def _check_stored(self, position: int, stored_bytes: int) -> None:
        limit = compress_bound(self.header.block_bytes) + CRC_BYTES
        if stored_bytes > limit:
            raise FormatError(
                self.path,
                self.header.index_offset_bytes + position * jump_table.ENTRY_BYTES,
                f"at most {limit} bytes",
                stored_bytes,
                field=f"jump table entry {position}",
            )

    def read_at(self, offset: int, length: int) -> bytes:
        check_range(self, offset, length)
        if not length:
            return b""
        block_bytes = self.header.block_bytes
        first, last = offset // block_bytes, (offset + length - 1) // block_bytes
        if first == last:
            begin = offset - first * block_bytes
            return self.read_block(first)[begin : begin + length]
        pieces: list[bytes] = []
        batch = max(1, _BATCH_BYTES // block_bytes)
        for position in range(first, last + 1, batch):
            pieces.extend(self._read_batch(position, min(position + batch, last + 1)))
        skip = offset - first * block_bytes
        return b"".join(pieces)[skip : skip + length]

    def _read_batch(self, begin: int, end: int) -> list[bytes]:
        starts = self.table.starts
        for position in range(begin, end):
            self._check_stored(position, starts[position + 1] - starts[position])
        base = starts[begin]
        raw = self._inner.read_at(base, starts[end] - base)
        return [
            self._open_block(i, raw[starts[i] - base : starts[i + 1] - base])
            for i in range(begin, end)
        ]

    def close(self) -> None:
        self._inner.close()
