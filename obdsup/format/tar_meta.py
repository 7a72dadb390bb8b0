"""Tar meta: the headers of a tar without its contents, from which fs metadata can be built.

All 512-byte headers of a tar one after another, those of pax and long names with their payload
blocks. In the header of a regular file the device major field tells where its contents are:

| off | size | field    | in tar meta                                            |
|-----|------|----------|--------------------------------------------------------|
| 0   | 329  | as a tar | checksum not adjusted, so that readers must ignore it  |
| 329 | 8    | devmajor | i64 little-endian, byte offset of the data in the tar  |

The blocks of zeros that end a tar are left out. Source: overlaybd-formats 4.2.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from obdsup.errors import FormatError
from obdsup.format.blob import Blob

__all__ = ["Entry", "encode", "entries", "read"]

BLOCK_BYTES = 512
_DEVMAJOR_AT = 329
_SIZE_AT = 124
_TYPE_AT = 156
_REGULAR = b"0\0"  # and the typeflag NUL of old tars
_WITH_PAYLOAD = b"xgXLK"  # pax of one file, of all, of Solaris; GNU long name, long link
_WITHOUT_DATA = b"123456"  # links, devices, directories, FIFOs: a size means nothing
_MAX_PAYLOAD_BYTES = 1 << 20


class Entry(NamedTuple):
    """A file of a tar: its header, what stands before it (pax, long names), where its data is."""

    extensions: bytes
    header: bytes
    data_offset: int
    data_bytes: int

    @property
    def is_regular(self) -> bool:
        """Its contents are in the tar."""
        return self.header[_TYPE_AT] in _REGULAR


def entries(tar: Blob) -> Iterator[Entry]:
    """The files of an uncompressed tar, in order.

    Raises:
        FormatError: a header's checksum is wrong, or the tar is cut.
    """
    yield from _walk(tar, is_meta=False)


def read(meta: Blob) -> Iterator[Entry]:
    """The files of a tar meta; ``data_offset`` counts in the tar it was made of.

    Raises:
        FormatError: cut inside of a header or its payload, or a size that is no number.
    """
    yield from _walk(meta, is_meta=True)


def encode(entry: Entry) -> bytes:
    """The entry's part of a tar meta."""
    header = entry.header
    if entry.is_regular:
        offset = struct.pack("<q", entry.data_offset)
        header = header[:_DEVMAJOR_AT] + offset + header[_DEVMAJOR_AT + 8 :]
    return entry.extensions + header


def _walk(blob: Blob, *, is_meta: bool) -> Iterator[Entry]:
    at, extensions, pax_size = 0, b"", None
    while at < blob.size:
        header = blob.read_at(at, BLOCK_BYTES)
        if not any(header):
            break
        if not is_meta:
            _check_sum(blob.path, at, header)
        size = _number(blob.path, at, header)
        kind = header[_TYPE_AT]
        begin, at = at, at + BLOCK_BYTES
        if kind in _WITH_PAYLOAD:
            if size > _MAX_PAYLOAD_BYTES:
                raise FormatError(
                    blob.path, begin + _SIZE_AT, f"at most {_MAX_PAYLOAD_BYTES}", size,
                    field="size of a tar extension",
                )  # fmt: skip
            payload = blob.read_at(at, _whole_blocks(size))
            at += len(payload)
            extensions += header + payload
            if kind == b"x"[0]:
                pax_size = _pax_size(blob.path, begin, payload[:size])
            continue
        if pax_size is not None:
            size = pax_size
        if kind in _WITHOUT_DATA:
            size = 0
        if is_meta:
            offset = struct.unpack_from("<q", header, _DEVMAJOR_AT)[0]
        else:
            offset = at
            at += _whole_blocks(size)
            if offset + size > blob.size:
                raise FormatError(
                    blob.path, begin, f"{size} bytes of a file", f"end of file at {blob.size}",
                    field="tar",
                )  # fmt: skip
        yield Entry(extensions, header, offset, size)
        extensions, pax_size = b"", None
    if extensions:
        raise FormatError(blob.path, at, "the header of a file", "the end", field="tar")


def _whole_blocks(size: int) -> int:
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


def _check_sum(path: str, at: int, header: bytes) -> None:
    text = header[148:156].strip(b" \0")
    found = int(text, 8) if text and all(48 <= digit <= 55 for digit in text) else -1
    expected = sum(header[:148]) + 8 * 32 + sum(header[156:])
    if found != expected:
        raise FormatError(path, at + 148, expected, found, field="tar header checksum")


def _number(path: str, at: int, header: bytes) -> int:
    """The size: octal text, or binary when the first bit is set (GNU)."""
    raw = header[_SIZE_AT : _SIZE_AT + 12]
    if raw[0] & 0x80:
        value = int.from_bytes(raw, "big") & ~(0x80 << 88)
        if value < 1 << 63:
            return value
    text = raw.strip(b" \0")
    if not text:
        return 0
    if not all(48 <= digit <= 55 for digit in text):
        raise FormatError(path, at + _SIZE_AT, "a size in octal", raw.hex(), field="tar size")
    return int(text, 8)


def _pax_size(path: str, at: int, payload: bytes) -> int | None:
    """The ``size`` record of a pax header, if it has one."""
    while payload:
        digits, _, _ = payload.partition(b" ")
        if not digits.isdigit() or not len(digits) < int(digits[:9]) <= len(payload):
            raise FormatError(path, at, "a pax record", payload[:20].hex(), field="tar")
        record, payload = payload[: int(digits)], payload[int(digits) :]
        key, _, value = record[len(digits) + 1 : -1].partition(b"=")
        if key == b"size" and value.isdigit():
            return int(value)
    return None
