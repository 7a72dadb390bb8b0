"""The tar wrapper around a layer, for writing: what stands in front of and behind the payload.

A pax header with the payload's size (the octal field of the real header stays 0), the header of
``overlaybd.commit``, the payload, padding to 512 bytes, two zero blocks. The same bytes as the
reference's. Source: overlaybd-formats 3.
"""

from __future__ import annotations

__all__ = ["BASE_BYTES", "head", "tail"]

_BLOCK = 512
BASE_BYTES = 3 * _BLOCK  # where the payload begins


def head(payload_bytes: int) -> bytes:
    """The ``BASE_BYTES`` in front of a payload of that length."""
    record = _pax_record(payload_bytes)
    pax = _header(b"overlaybd.pax", b"x", {124: b"%11o " % len(record)})
    member = _header(
        b"overlaybd.commit",
        b"0",
        {
            100: b"100644 ",
            108: b"     0 ",
            116: b"     0 ",
            124: b"          0 ",
            136: b"          0 ",
            265: b"root",
            297: b"root",
        },
    )
    return pax + record.ljust(_BLOCK, b"\x00") + member


def tail(payload_bytes: int) -> bytes:
    """What follows the payload."""
    return bytes(-payload_bytes % _BLOCK + 2 * _BLOCK)


def _pax_record(payload_bytes: int) -> bytes:
    """``<length of all of it> size=<bytes>`` and a newline."""
    text = b" size=%d\n" % payload_bytes
    length = len(text) + 1
    while len(b"%d" % length) + len(text) != length:
        length += 1
    return b"%d" % length + text


def _header(name: bytes, typeflag: bytes, fields: dict[int, bytes]) -> bytes:
    block = bytearray(_BLOCK)
    for at, field in {0: name, 156: typeflag, 257: b"ustar\x0000", 148: b" " * 8, **fields}.items():
        block[at : at + len(field)] = field
    block[148:156] = b"%6o \x00" % sum(block)
    return bytes(block)
