"""The record of what was discarded in a sparse writable layer: the file DATA.zeroes.

| off | size | field   | meaning                                                            |
|-----|------|---------|--------------------------------------------------------------------|
| 0   | 8    | magic   | "OBDZERO" and a zero                                               |
| 8   | 4    | version | 1, little-endian                                                   |
| 16  | 37   | uuid    | of the data file, as its header has it; another: counts for nothing |
| 128 |      | records | 16 bytes each                                                      |

Record: u64 offset (bits 0-49) and length (bits 50-63) in sectors, u32 0, u32 raw CRC-32C of these
12 bytes, seeded with the CRC of the header's 128 bytes. The records are a set that only grows: a
hole of the data file inside of it is zeros, any other shows what is below. A record is synced
before its hole is made, so that a torn last one was never acted on.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from obdsup.errors import FormatError
from obdsup.format.blob import Blob
from obdsup.format.crc import crc32c_raw
from obdsup.format.lsmt_index import MAX_SEGMENT_SECTORS

__all__ = [
    "HEADER_BYTES",
    "RECORD_BYTES",
    "SUFFIX",
    "decode",
    "encode_header",
    "encode_range",
    "sound_records",
    "uuid_field",
]

SUFFIX = ".zeroes"
HEADER_BYTES = 128
_HEADER = struct.Struct("<8sI4x37s")
_RECORD = struct.Struct("<QII")
RECORD_BYTES = _RECORD.size
_MAGIC = b"OBDZERO\0"
_VERSION = 1
_OFFSET_BITS = 50
_NO_OFFSET = (1 << _OFFSET_BITS) - 1


def uuid_field(data: Blob) -> bytes:
    """The uuid as it stands in the data file's header, up to its NUL, in the field's 37 bytes."""
    return data.read_at(56, 36).split(b"\0", 1)[0].ljust(37, b"\0")


def encode_header(uuid: bytes) -> bytes:
    """The first bytes of the file; ``uuid`` is the field of the data file's header."""
    return _HEADER.pack(_MAGIC, _VERSION, uuid).ljust(HEADER_BYTES, b"\0")


def encode_range(begin: int, end: int, uuid: bytes) -> bytes:
    """The records of sectors [begin, end)."""
    seed = crc32c_raw(0, encode_header(uuid))
    records = bytearray()
    for offset in range(begin, end, MAX_SEGMENT_SECTORS):
        length = min(MAX_SEGMENT_SECTORS, end - offset)
        body = _RECORD.pack(offset | length << _OFFSET_BITS, 0, 0)[:12]
        records += body + struct.pack("<I", crc32c_raw(seed, body))
    return bytes(records)


def decode(raw: bytes, uuid: bytes, path: str) -> list[tuple[int, int]]:
    """The sector ranges [begin, end) that a whole file says; none for another data file's.

    Raises:
        FormatError: a damaged record before a good one, or a newer version.
    """
    header = encode_header(uuid)
    if raw[:HEADER_BYTES] != header:
        magic, version, _ = _HEADER.unpack(raw[: _HEADER.size].ljust(_HEADER.size, b"\0"))
        if magic == _MAGIC and len(raw) >= HEADER_BYTES and version > _VERSION:
            raise FormatError(path, 8, f"version {_VERSION}", version, field="version")
        return []
    ranges: list[tuple[int, int]] = []
    bad_at = 0
    for at, record in _records(raw):
        found = _range_of(record, header)
        if found is None:
            bad_at = bad_at or at
        elif bad_at:
            raise FormatError(
                path, bad_at, "a record of zeroes", "damage before a good one",
                hint="obdsup image repair DATA INDEX drops it",
            )  # fmt: skip
        else:
            ranges.append(found)
    return ranges


def _range_of(record: bytes, header: bytes) -> tuple[int, int] | None:
    low, _, crc = _RECORD.unpack(record)
    offset, length = low & _NO_OFFSET, low >> _OFFSET_BITS
    if not length or offset == _NO_OFFSET:
        return None
    if crc != crc32c_raw(crc32c_raw(0, header), record[:12]):
        return None
    return offset, offset + length


def sound_records(raw: bytes, uuid: bytes) -> tuple[bytes, list[int]]:
    """The good records of a file, and where the others are; none of another data file's."""
    header = encode_header(uuid)
    sound, bad = bytearray(), []
    for at, record in _records(raw) if raw[:HEADER_BYTES] == header else ():
        if _range_of(record, header) is None:
            bad.append(at)
        else:
            sound += record
    return bytes(sound), bad


def _records(raw: bytes) -> Iterator[tuple[int, bytes]]:
    for at in range(HEADER_BYTES, len(raw) - _RECORD.size + 1, _RECORD.size):
        yield at, raw[at : at + _RECORD.size]
