"""gzip index ("gzip.meta"): where inflating a gzip file may begin, and reading through it.

| off | size | field                | value                                          |
|-----|------|----------------------|------------------------------------------------|
| 0   | 8    | magic                | "ddgzidx" 00                                   |
| 8   | 2    | major, minor         | 1, 0                                           |
| 10  | 1    | window compression   | 0 none, 1 zlib                                 |
| 11  | 1    | level (signed)       | 6                                              |
| 12  | 1    | flag                 | 0                                              |
| 13  | 4    | span                 | 1048576                                        |
| 17  | 4    | window               | 32768                                          |
| 21  | 4    | entry size           | 29                                             |
| 25  | 8    | entries              |                                                |
| 33  | 8    | gzip file size       | must be exactly that                           |
| 41  | 8    | index file size      | must be exactly that                           |
| 49  | 8    | uncompressed size    |                                                |
| 57  | 256  | reserved             | 0                                              |
| 313 | 8    | table offset         |                                                |
| 321 | 8    | table length, stored | a zlib stream                                  |
| 329 | 4    | crc                  | raw CRC-32C, seed 0, of the 329 bytes before   |

Windows stand between header and table. An entry, 29 bytes: uncompressed offset i64, offset in the
gzip file i64, offset of its window in the index i64, bits of the byte before that belong to it u8,
stored length of the window u32. Source: overlaybd-formats 4.1.

Windows and table are zlib streams with a checksum each; the gzip file's own checksums cover whole
members and are compared when one is read from its beginning to its end. Behind the end of a member
reading goes on at the point of the next one: each member has a point where it begins. (An index of
the reference knows the first member alone, and says so in the uncompressed size.)
"""

from __future__ import annotations

import struct
import zlib
from bisect import bisect_right
from typing import NamedTuple

from obdsup.errors import FormatError
from obdsup.format.blob import Blob, check_range
from obdsup.format.crc import crc32c_raw

__all__ = ["GzipBlob", "GzipIndex", "Point"]

HEADER_BYTES = 333
MAGIC = b"ddgzidx\0"
WINDOW_BYTES = 32768

_HEADER = struct.Struct("<8sBBBbBIIIQQQQ256sQQI")
_POINT = struct.Struct("<qqqBI")
_CHUNK_BYTES = 64 << 10
# zlib makes at most 1032 bytes of one, so that no index justifies a larger table than this.
_MAX_RATIO = 1100


class Point(NamedTuple):
    """Where inflating may begin: ``bits`` of the byte before ``packed_at`` come first."""

    plain_at: int
    packed_at: int
    window_at: int
    bits: int
    window_bytes: int


class GzipIndex:
    """The points of a gzip file, checked. Owns the blob of the index."""

    def __init__(self, blob: Blob, packed_bytes: int) -> None:
        """Reads and checks header and table.

        Args:
            blob: the index file; taken over.
            packed_bytes: size of the gzip file it must be for.

        Raises:
            FormatError: header, table or a point is wrong, or it is for another gzip file.
        """
        self._blob = blob
        self.path = blob.path
        if blob.size < HEADER_BYTES:
            raise FormatError(blob.path, 0, f"a gzip index of {HEADER_BYTES} bytes", blob.size)
        raw = blob.read_at(0, HEADER_BYTES)
        fields = _HEADER.unpack(raw)
        (magic, major, _, self._algorithm, _, _, self.span_bytes, window, entry) = fields[:9]
        (count, gzip_bytes, index_bytes, self.plain_bytes, _, table_at, table_bytes, crc) = fields[
            9:
        ]
        checks = (
            (0, "magic", MAGIC.hex(), magic.hex()),
            (329, "crc", crc32c_raw(0, raw[:329]), crc),
            (8, "major version", 1, major),
            (17, "window", WINDOW_BYTES, window),
            (21, "entry size", _POINT.size, entry),
            (33, "size of the gzip file", packed_bytes, gzip_bytes),
            (41, "size of the index file", blob.size, index_bytes),
        )
        for at, field, expected, got in checks:
            if expected != got:
                raise FormatError(blob.path, at, expected, got, field=f"gzip index {field}")
        if self._algorithm not in (0, 1):
            raise FormatError(
                blob.path, 10, "0 or 1", self._algorithm, field="gzip index window compression"
            )
        if table_at < HEADER_BYTES or table_at + table_bytes > blob.size:
            raise FormatError(
                blob.path, 313, f"a table inside [{HEADER_BYTES}, {blob.size})",
                f"[{table_at}, {table_at + table_bytes})", field="gzip index table",
            )  # fmt: skip
        self.points = self._read_points(table_at, table_bytes, count)
        self._check_points(table_at, packed_bytes)
        self._starts = [point.plain_at for point in self.points]

    def _read_points(self, at: int, stored: int, count: int) -> list[Point]:
        length = count * _POINT.size
        if not count or length > stored * _MAX_RATIO:
            raise FormatError(
                self.path, 25, f"entries that {stored} bytes can hold", count,
                field="gzip index entries",
            )  # fmt: skip
        table = self._inflate(at, stored, length, "table")
        return [Point(*row) for row in _POINT.iter_unpack(table)]

    def _inflate(self, at: int, stored: int, length: int, what: str) -> bytes:
        raw = self._blob.read_at(at, stored)
        try:
            stream = zlib.decompressobj()
            plain = stream.decompress(raw, length + 1)
        except zlib.error as error:
            raise FormatError(
                self.path, at, "a zlib stream", str(error), field=f"gzip index {what}"
            ) from error
        if len(plain) != length or not stream.eof or stream.unused_data:
            raise FormatError(
                self.path, at, f"{length} bytes", f"{len(plain)} or more or less, cut",
                field=f"gzip index {what}",
            )  # fmt: skip
        return plain

    def _check_points(self, windows_end: int, packed_bytes: int) -> None:
        reached = Point(-1, 0, 0, 0, 0)
        for number, point in enumerate(self.points):
            is_good = (
                point.plain_at > reached.plain_at
                and point.plain_at <= self.plain_bytes
                and (number > 0 or point.plain_at == 0)
                and reached.packed_at < point.packed_at <= packed_bytes
                and point.bits < 8
                and point.window_at >= HEADER_BYTES
                and point.window_at + point.window_bytes <= windows_end
            )
            if not is_good:
                raise FormatError(
                    self.path, 313, f"points in order, inside of {packed_bytes} bytes",
                    str(tuple(point)), field=f"gzip index entry {number}",
                )  # fmt: skip
            reached = point

    def before(self, offset: int) -> Point:
        """The last point at or before uncompressed byte ``offset``."""
        return self.points[bisect_right(self._starts, offset) - 1]

    def window(self, point: Point) -> bytes:
        """The 32 KiB in front of a point."""
        if not point.window_bytes:
            return b""
        if self._algorithm == 0:
            return self._blob.read_at(point.window_at, point.window_bytes)[-WINDOW_BYTES:]
        return self._inflate(point.window_at, point.window_bytes, WINDOW_BYTES, "window")

    def close(self) -> None:
        """Closes the index file."""
        self._blob.close()


class GzipBlob:
    """What a gzip file holds, with random access through an index. Owns both."""

    def __init__(self, packed: Blob, index: GzipIndex) -> None:
        self.path = packed.path
        self.size = index.plain_bytes
        self._packed, self._index = packed, index
        self._stream: _Stream | None = None

    def read_at(self, offset: int, length: int) -> bytes:
        check_range(self, offset, length)
        pieces: list[bytes] = []
        try:
            while length:
                piece = self._stream_at(offset).read(min(length, _CHUNK_BYTES))
                pieces.append(piece)
                offset += len(piece)
                length -= len(piece)
            if offset == self.size and self._stream is not None:
                self._finish(self._stream)
        except BaseException:
            self._stream = None
            raise
        return b"".join(pieces)

    def _finish(self, stream: _Stream) -> None:
        """Behind the last byte: the member must end there, and its checksum is compared."""
        if not stream.is_at_end():
            raise FormatError(
                self._index.path, 49, "the length of the content", self.size,
                field="gzip index uncompressed size",
            )  # fmt: skip

    def _stream_at(self, offset: int) -> _Stream:
        """A stream that stands at ``offset`` and has bytes there."""
        point = self._index.before(offset)
        stream = self._stream
        # a read behind the last one goes on from there, unless a point is nearer
        if stream is None or not point.plain_at <= stream.reached <= offset:
            stream = _Stream(self._packed, self._index, point, is_member=offset == 0)
        while True:
            while stream.reached < offset and not stream.is_at_end():
                stream.read(min(offset - stream.reached, _CHUNK_BYTES))
            self._stream = stream
            if not stream.is_at_end():
                return stream
            point = self._index.before(stream.reached)
            if point.plain_at != stream.reached or point.packed_at <= stream.packed_at:
                raise FormatError(
                    self.path, stream.packed_at, f"data up to byte {self.size} of the content",
                    f"the end at {stream.reached}", field="gzip data",
                )  # fmt: skip
            stream = _Stream(self._packed, self._index, point, is_member=True)

    def close(self) -> None:
        self._packed.close()
        self._index.close()


class _Stream:
    """Inflates from a point to the end of its member.

    Attributes:
        reached: the uncompressed byte it stands at.
        packed_at: how much of the gzip file it has taken.
    """

    def __init__(self, packed: Blob, index: GzipIndex, point: Point, *, is_member: bool) -> None:
        self.reached, self.packed_at = point.plain_at, point.packed_at
        self._packed = packed
        # Compared at the member's end; None where we did not come from its beginning.
        self._sum: tuple[int, int] | None = (0, 0) if is_member else None
        self._inflater = zlib.decompressobj(-15, zdict=index.window(point))
        self._pending = self._rest_shifted(point.bits) if point.bits else b""
        self._plain = b""

    def _rest_shifted(self, bits: int) -> bytes:
        """The rest of the file, moved so that the last ``bits`` bits of the byte before lead.

        zlib's own way to begin inside of a byte can not be reached from Python.
        """
        begin = self.packed_at - 1
        raw = self._packed.read_at(begin, self._packed.size - begin)
        self.packed_at = self._packed.size
        return (int.from_bytes(raw, "little") >> (8 - bits)).to_bytes(len(raw), "little")

    def _problem(self, expected: object, got: object) -> FormatError:
        return FormatError(self._packed.path, self.packed_at, expected, got, field="gzip data")

    def is_at_end(self) -> bool:
        """No byte of the member is left; its checksum was compared then."""
        while not self._plain:
            if self._inflater.eof:
                self._check_sum()
                return True
            self._inflate()
        return False

    def read(self, most: int) -> bytes:
        """1 to ``most`` bytes; not at the end."""
        assert not self.is_at_end()
        piece, self._plain = self._plain[:most], self._plain[most:]
        self.reached += len(piece)
        return piece

    def _inflate(self) -> None:
        if not self._pending:
            length = min(_CHUNK_BYTES, self._packed.size - self.packed_at)
            if not length:
                raise self._problem("more of a gzip member", "end of file")
            self._pending = self._packed.read_at(self.packed_at, length)
            self.packed_at += length
        try:
            self._plain = self._inflater.decompress(self._pending, _CHUNK_BYTES)
        except zlib.error as error:
            raise self._problem("deflate", str(error)) from error
        self._pending = self._inflater.unconsumed_tail
        if self._sum is not None:
            crc, length = self._sum
            self._sum = zlib.crc32(self._plain, crc), length + len(self._plain)

    def _check_sum(self) -> None:
        if self._sum is None:
            return
        at = self.packed_at - len(self._inflater.unused_data)
        found = struct.unpack("<II", self._packed.read_at(at, 8))
        expected = self._sum[0], self._sum[1] & 0xFFFFFFFF
        self._sum = None
        self.packed_at = at + 8
        if found != expected:
            raise FormatError(
                self._packed.path, at, f"crc and length {expected}", found, field="gzip trailer"
            )
