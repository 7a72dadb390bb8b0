"""The ZFile header and trailer: one struct in a 512-byte area, little-endian.

| field              | offset | size | type  | meaning                                             |
|--------------------|--------|------|-------|-----------------------------------------------------|
| magic0             | 0      | 8    | bytes | "ZFile" 00 01 00                                    |
| magic1             | 8      | 16   | bytes | "tuji.yyf@Alibaba"                                  |
| size               | 24     | 4    | u32   | 96                                                  |
| digest             | 28     | 4    | u32   | raw CRC-32C of the 512 bytes with this field zero   |
| flags              | 32     | 8    | u64   | bits: ZFileFlags below                              |
| index_offset       | 40     | 8    | u64   | bytes                                               |
| index_size         | 48     | 8    | u64   | entries of 4 bytes, one per block                   |
| original_file_size | 56     | 8    | u64   | bytes                                               |
| index_crc          | 64     | 4    | u32   | raw CRC-32C of the index; valid with bit 4          |
| reserved           | 68     | 4    |       |                                                     |
| block_size         | 72     | 4    | u32   | bytes, a power of two                               |
| algo               | 76     | 1    | u8    | 0 minilzo, 1 lz4, 2 zstd                            |
| level              | 77     | 1    | u8    | 0                                                   |
| use_dict           | 78     | 1    | u8    | 0                                                   |
| pad                | 79     | 1    |       |                                                     |
| reserved           | 80     | 4    |       |                                                     |
| dict_size          | 84     | 4    | u32   | 0                                                   |
| verify             | 88     | 1    | u8    | 1: each block is followed by its CRC                |
| pad                | 89     | 423  |       |                                                     |

Files of 2021 carry garbage in other flag bits and, without bit 4, in digest, index_crc and the
reserved fields; their header's index fields are garbage too without bit 3. So only what a set bit
vouches for is looked at. Source: overlaybd-formats 2.1 to 2.3.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag

from obdsup.errors import FormatError
from obdsup.format.crc import crc32c_raw

__all__ = ["AREA_BYTES", "Algorithm", "ZFileFlags", "ZFileHeader", "decode", "encode", "has_magic"]

AREA_BYTES = 512
MIN_BLOCK_BYTES = 4096
MAX_BLOCK_BYTES = 65536

_MAGIC = b"ZFile\x00\x01\x00tuji.yyf@Alibaba"
_STRUCT = struct.Struct("<24sIIQQQQIIIBBBBIIB7s")
_DIGEST_AT = 28


class ZFileFlags(IntFlag):
    """The flag bits that code uses; others are ignored."""

    HEADER = 1
    DATA = 2
    SEALED = 4
    OVERWRITTEN = 8
    DIGEST = 16


class Algorithm(IntEnum):
    """Compression of the blocks; 0 (minilzo) is refused by name."""

    LZ4 = 1
    ZSTD = 2


@dataclass(frozen=True)
class ZFileHeader:
    """A header or trailer; the index fields of a header count only with ``OVERWRITTEN``."""

    flags: ZFileFlags
    algorithm: Algorithm
    block_bytes: int
    is_verified: bool
    dict_bytes: int = 0
    index_offset_bytes: int = 0
    index_entry_cnt: int = 0
    original_bytes: int = 0
    index_crc: int = 0


def has_magic(area: bytes) -> bool:
    """Whether the bytes start like a ZFile."""
    return area[: len(_MAGIC)] == _MAGIC


def encode(header: ZFileHeader) -> bytes:
    """The 512 bytes of a header or trailer, digest included."""
    packed = _STRUCT.pack(
        _MAGIC,
        96,
        0,
        header.flags,
        header.index_offset_bytes,
        header.index_entry_cnt,
        header.original_bytes,
        header.index_crc,
        0,
        header.block_bytes,
        header.algorithm,
        0,
        0,
        0,
        0,
        header.dict_bytes,
        header.is_verified,
        b"",
    )
    area = packed.ljust(AREA_BYTES, b"\x00")
    digest = crc32c_raw(0, area)
    return area[:_DIGEST_AT] + digest.to_bytes(4, "little") + area[_DIGEST_AT + 4 :]


def decode(area: bytes, path: str, at: int) -> ZFileHeader:
    """Decodes 512 bytes read from byte ``at`` of ``path``.

    Raises:
        FormatError: too short, wrong magic or digest, an algorithm, dictionary or block size that
            is not supported.
    """
    if len(area) < AREA_BYTES:
        raise FormatError(path, at, f"{AREA_BYTES} bytes of ZFile header", f"{len(area)} bytes")
    if not has_magic(area):
        raise FormatError(path, at, "the ZFile magic", area[:24].hex(), field="magic")
    fields = _STRUCT.unpack_from(area)
    (_, _, digest, raw_flags, index_offset, index_size, original, index_crc, _) = fields[:9]
    (block_bytes, algo, _, use_dict, _, _, dict_bytes, verify, _) = fields[9:]
    flags = ZFileFlags(raw_flags & 0b11111)
    if flags & ZFileFlags.DIGEST:
        actual = crc32c_raw(0, area[:_DIGEST_AT] + bytes(4) + area[_DIGEST_AT + 4 : AREA_BYTES])
        if actual != digest:
            raise FormatError(
                path, at + _DIGEST_AT, f"{actual:#010x}", f"{digest:#010x}", field="digest"
            )
    if algo not in (Algorithm.LZ4, Algorithm.ZSTD):
        raise FormatError(
            path,
            at + 76,
            "1 (lz4) or 2 (zstd)",
            f"{algo}{' (minilzo)' * (algo == 0)}",
            field="algo",
        )
    if use_dict or dict_bytes:
        raise FormatError(
            path, at + 78, "no dictionary", f"use_dict {use_dict}, {dict_bytes} bytes", field="dict"
        )
    if not MIN_BLOCK_BYTES <= block_bytes <= MAX_BLOCK_BYTES or block_bytes & (block_bytes - 1):
        raise FormatError(
            path,
            at + 72,
            f"a power of two of {MIN_BLOCK_BYTES} to {MAX_BLOCK_BYTES}",
            block_bytes,
            field="block_size",
        )
    if verify > 1:
        raise FormatError(path, at + 88, "0 or 1", verify, field="verify")
    return ZFileHeader(
        flags=flags,
        algorithm=Algorithm(algo),
        block_bytes=block_bytes,
        is_verified=bool(verify),
        dict_bytes=dict_bytes,
        index_offset_bytes=index_offset,
        index_entry_cnt=index_size,
        original_bytes=original,
        index_crc=index_crc,
    )
