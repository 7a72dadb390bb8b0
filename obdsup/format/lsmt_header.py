"""The LSMT header and trailer: one struct in a 4096-byte area, little-endian, without a checksum.

| field         | offset | size | type  | meaning                                                 |
|---------------|--------|------|-------|---------------------------------------------------------|
| magic0        | 0      | 8    | bytes | "LSMT" 00 01 02 00                                      |
| magic1        | 8      | 16   | bytes | 657e63d29444084ca2d2c8ec4fcfae8a                        |
| size          | 24     | 4    | u32   | 390; not checked by readers                             |
| flags         | 28     | 4    | u32   | bit 0 header, 1 data file, 2 sealed, 4 sparse           |
| index_offset  | 32     | 8    | u64   | bytes                                                   |
| index_size    | 40     | 8    | u64   | entries of 16 bytes, padding included                   |
| virtual_size  | 48     | 8    | u64   | bytes                                                   |
| uuid          | 56     | 37   | text  | 36 characters and NUL                                   |
| parent_uuid   | 93     | 37   | text  | likewise                                                |
| reserved      | 130    | 2    |       | 0                                                       |
| version       | 132    | 1    | u8    | 1                                                       |
| sub_version   | 133    | 1    | u8    | 1                                                       |
| user_tag      | 134    | 256  | text  | NUL-filled                                              |
| zero          | 390    | 3706 |       |                                                         |

Source: overlaybd-formats 1.1 to 1.3.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from enum import IntFlag

from obdsup.errors import ConfigError, FormatError
from obdsup.format.units import SECTOR_BYTES

__all__ = ["AREA_BYTES", "NULL_UUID", "LsmtFlags", "LsmtHeader", "decode", "encode", "parse_uuid"]

AREA_BYTES = 4096
NULL_UUID = "00000000-0000-0000-0000-000000000000"
MAX_VIRTUAL_BYTES = (2**50 - 1) * SECTOR_BYTES  # the last sector number is the INVALID mark

_MAGIC = b"LSMT\x00\x01\x02\x00" + bytes.fromhex("657e63d29444084ca2d2c8ec4fcfae8a")
_STRUCT = struct.Struct("<24sIIQQQ37s37sHBB256s")
_VIRTUAL_SIZE_OFFSET = 48
_UUID = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}", re.ASCII)


class LsmtFlags(IntFlag):
    """The flag bits that code uses; others are ignored."""

    HEADER = 1
    DATA = 2
    SEALED = 4
    SPARSE = 16


@dataclass(frozen=True)
class LsmtHeader:
    """A header or trailer; a uuid that is not of the right form reads as ``NULL_UUID``."""

    flags: LsmtFlags
    virtual_size_bytes: int
    index_offset_bytes: int = 0
    index_entry_cnt: int = 0
    uuid: str = NULL_UUID
    parent_uuid: str = NULL_UUID
    user_tag: str = ""


def parse_uuid(text: str) -> str:
    """The upper-case form of a uuid text.

    Raises:
        ConfigError: not 8-4-4-4-12 hex digits.
    """
    if not _UUID.fullmatch(text):
        raise ConfigError(f"uuid: expected 8-4-4-4-12 hex digits, found {text!r}")
    return text.upper()


def _read_uuid(raw: bytes) -> str:
    text = raw[:36].decode("latin-1")
    return text.upper() if raw[36] == 0 and _UUID.fullmatch(text) else NULL_UUID


def encode(header: LsmtHeader) -> bytes:
    """The 4096 bytes of a header or trailer.

    Raises:
        ConfigError: the user tag is longer than 256 bytes or a uuid is malformed.
    """
    user_tag = header.user_tag.encode()
    if len(user_tag) > 256:
        raise ConfigError(f"user tag: expected at most 256 bytes, found {len(user_tag)}")
    packed = _STRUCT.pack(
        _MAGIC,
        _STRUCT.size,
        header.flags,
        header.index_offset_bytes,
        header.index_entry_cnt,
        header.virtual_size_bytes,
        parse_uuid(header.uuid).encode(),
        parse_uuid(header.parent_uuid).encode(),
        0,
        1,
        1,
        user_tag,
    )
    return packed.ljust(AREA_BYTES, b"\x00")


def has_magic(area: bytes) -> bool:
    """Whether the bytes start like an LSMT header or trailer."""
    return area[: len(_MAGIC)] == _MAGIC


def decode(area: bytes, path: str, at: int) -> LsmtHeader:
    """Decodes 4096 bytes read from byte ``at`` of ``path``.

    Raises:
        FormatError: too short, wrong magic, a virtual size that is not whole sectors or too large.
    """
    if len(area) < AREA_BYTES:
        raise FormatError(path, at, f"{AREA_BYTES} bytes of LSMT header", f"{len(area)} bytes")
    if not has_magic(area):
        raise FormatError(path, at, "the LSMT magic", area[:24].hex(), field="magic")
    (_, _, flags, index_offset, index_size, virtual_size, uuid, parent, _, _, _, tag) = (
        _STRUCT.unpack_from(area)
    )
    if virtual_size % SECTOR_BYTES or virtual_size > MAX_VIRTUAL_BYTES:
        raise FormatError(
            path,
            at + _VIRTUAL_SIZE_OFFSET,
            f"a multiple of {SECTOR_BYTES} of at most {MAX_VIRTUAL_BYTES}",
            virtual_size,
            field="virtual_size",
        )
    return LsmtHeader(
        flags=LsmtFlags(flags & 0b10111),
        virtual_size_bytes=virtual_size,
        index_offset_bytes=index_offset,
        index_entry_cnt=index_size,
        uuid=_read_uuid(uuid),
        parent_uuid=_read_uuid(parent),
        user_tag=tag.split(b"\x00", 1)[0].decode("utf-8", "replace"),
    )


def expect_flags(
    header: LsmtHeader, path: str, at: int, *, present: LsmtFlags, absent: LsmtFlags
) -> None:
    """Raises FormatError unless all ``present`` bits are set and all ``absent`` ones are clear."""
    if header.flags & present != present or header.flags & absent:
        raise FormatError(
            path,
            at + 28,
            f"bits {present:#07b} set and {absent:#07b} clear",
            f"{int(header.flags):#07b}",
            field="flags",
        )
