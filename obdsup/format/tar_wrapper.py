"""The tar wrapper: a layer as the only member of a tar, so that OCI tooling accepts it.

| part              | bytes | what                                                       |
|-------------------|-------|------------------------------------------------------------|
| pax header        | 512   | optional: typeflag "x", one or more "<len> key=value\\n" records |
| pax records       | 512 n |                                                            |
| header            | 512   | ustar, version 00; octal size unless the pax records give one |
| payload           |       | the layer; starts at 512, or at 1536 behind a pax header   |

A file being written has the magic "xxtar" and is not a wrapper yet. Source: overlaybd-formats 3.
"""

from __future__ import annotations

import re

from obdsup.errors import FormatError
from obdsup.format.blob import Blob, SliceBlob

__all__ = ["unwrap"]

_BLOCK = 512
_MAX_PAX_BYTES = 64 * 1024
_PAX_SIZE = re.compile(rb"[0-9]+ size=([0-9]{1,19})\n")


def _is_header(block: bytes) -> bool:
    return len(block) == _BLOCK and block[257:265] == b"ustar\x0000" and _checksum_holds(block)


def _checksum_holds(block: bytes) -> bool:
    recorded = _octal(block[148:156])
    return recorded == sum(block[:148]) + 8 * ord(" ") + sum(block[156:])


def _octal(field: bytes) -> int:
    text = field.split(b"\x00", 1)[0].strip(b" ")
    return int(text, 8) if re.fullmatch(rb"[0-7]+", text) else -1


def _pax_size(blob: Blob, header: bytes) -> tuple[int, int | None]:
    """(where the real header is, size= of the records or None)."""
    length = _octal(header[124:136])
    if not 0 <= length <= _MAX_PAX_BYTES:
        raise FormatError(
            blob.path, 124, f"0 to {_MAX_PAX_BYTES} bytes", length, field="size of the pax header"
        )
    records = blob.read_at(_BLOCK, length)
    position = 0
    size: int | None = None
    while position < len(records):
        digits = records[position : position + 8].split(b" ", 1)[0]
        step = int(digits) if re.fullmatch(rb"[0-9]+", digits) else 0
        record = records[position : position + step]
        if step < 5 or len(record) != step or record[-1:] != b"\n":
            raise FormatError(
                blob.path, _BLOCK + position, "a pax record", record[:32], field="pax header"
            )
        match = _PAX_SIZE.fullmatch(record)
        size = int(match[1]) if match else size
        position += step
    return _BLOCK + -(-length // _BLOCK) * _BLOCK, size


def unwrap(blob: Blob) -> tuple[Blob, int]:
    """The payload of a wrapped layer and its base offset; (``blob``, 0) when it is not wrapped.

    Raises:
        FormatError: a tar header whose payload is not a regular file inside the blob.
    """
    if blob.size < _BLOCK or not _is_header(header := blob.read_at(0, _BLOCK)):
        return blob, 0
    at, size = 0, None
    if header[156:157] == b"x":
        at, size = _pax_size(blob, header)
        header = blob.read_at(at, _BLOCK)
        if not _is_header(header):
            raise FormatError(blob.path, at, "a ustar header", header[257:265], field="magic")
    if header[156:157] not in (b"0", b"\x00"):
        raise FormatError(
            blob.path, at + 156, "a regular file", header[156:157], field="typeflag of the member"
        )
    if size is None:
        size = _octal(header[124:136])
    base = at + _BLOCK
    if size < 0 or base + size > blob.size:
        raise FormatError(
            blob.path,
            at + 124,
            f"at most {blob.size - base} bytes",
            size,
            field="size of the member",
        )
    return SliceBlob(blob, base, size), base
