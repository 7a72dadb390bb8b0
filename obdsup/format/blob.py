"""Blobs: immutable bytes with a name and random access, what every reader here stands on.

A blob never gives short data: a read is exact or an error that names the file and the offset.
Whoever opens a blob closes it; a blob made from another (slice, ZFile) closes the other one.
"""

from __future__ import annotations

import os
import stat
from typing import Protocol

from obdsup.errors import ConfigError, FormatError, ObdError

__all__ = ["Blob", "BytesBlob", "FileBlob", "SliceBlob"]

_MAX_PREAD_BYTES = 1 << 30


class Blob(Protocol):
    """Random access to ``size`` bytes; ``path`` names them in errors."""

    @property
    def path(self) -> str:
        """The name for error messages."""

    @property
    def size(self) -> int:
        """Length in bytes."""

    def read_at(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes from ``offset``.

        Raises:
            FormatError: the range is not inside the blob.
            ObdError: the storage failed.
        """

    def close(self) -> None:
        """Lets go of the file; idempotent."""


def check_range(blob: Blob, offset: int, length: int) -> None:
    """Raises FormatError unless [offset, offset + length) is in ``blob``: before any allocation."""
    if offset < 0 or length < 0 or offset + length > blob.size:
        raise FormatError(
            blob.path, offset, f"{length} bytes", f"end of file at {blob.size}", field="read"
        )


class FileBlob:
    """A regular file or block device, opened read-only; owns its descriptor."""

    def __init__(self, path: str) -> None:
        """Opens ``path``.

        Raises:
            ConfigError: it is missing, unreadable, a directory, or another special file.
        """
        self.path = path
        # O_NONBLOCK: opening a FIFO by that name must not hang; it means nothing to a regular file.
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise ConfigError(f"{path}: can not be opened: {error.strerror}", path=path) from error
        except ValueError as error:
            raise ConfigError(f"{path!r}: not a file name: {error}") from error
        mode = os.fstat(self._fd).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            self.close()
            kind = "a directory" if stat.S_ISDIR(mode) else "neither a file nor a block device"
            raise ConfigError(f"{path}: expected a regular file, found {kind}", path=path)
        self.size = os.lseek(self._fd, 0, os.SEEK_END)

    def read_at(self, offset: int, length: int) -> bytes:
        check_range(self, offset, length)
        pieces: list[bytes] = []
        while length:
            try:
                piece = os.pread(self._fd, min(length, _MAX_PREAD_BYTES), offset)
            except OSError as error:
                raise ObdError(
                    f"{self.path} at byte {offset}: read failed: {error.strerror}",
                    hint="check the storage under it",
                    path=self.path,
                    offset=offset,
                ) from error
            if not piece:
                raise FormatError(self.path, offset, f"{length} more bytes", "end of file")
            pieces.append(piece)
            offset += len(piece)
            length -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def data_extents(self) -> list[tuple[int, int]]:
        """Byte ranges [begin, end) that may hold data; the rest are holes and read as zeros."""
        extents: list[tuple[int, int]] = []
        position = 0
        while position < self.size:
            try:
                begin = os.lseek(self._fd, position, os.SEEK_DATA)
                end = os.lseek(self._fd, begin, os.SEEK_HOLE)
            except OSError:  # no data left (ENXIO), or a device that does not know of holes
                return extents if extents or self._knows_holes() else [(0, self.size)]
            extents.append((begin, end))
            position = end
        return extents

    def _knows_holes(self) -> bool:
        try:
            os.lseek(self._fd, 0, os.SEEK_HOLE)
        except OSError:
            return False
        return True

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class BytesBlob:
    """Bytes in memory: what tests and the fuzzers feed to the readers."""

    def __init__(self, data: bytes, path: str = "<memory>") -> None:
        self.path = path
        self.size = len(data)
        self._data = data

    def read_at(self, offset: int, length: int) -> bytes:
        check_range(self, offset, length)
        return self._data[offset : offset + length]

    def close(self) -> None:
        """Nothing to let go of."""


class SliceBlob:
    """The range [base, base + size) of another blob, which it owns."""

    def __init__(self, outer: Blob, base: int, size: int) -> None:
        """Takes ``outer`` over.

        Raises:
            FormatError: the range is not inside ``outer``.
        """
        check_range(outer, base, size)
        self.path = outer.path
        self.size = size
        self._outer, self._base = outer, base

    def read_at(self, offset: int, length: int) -> bytes:
        check_range(self, offset, length)
        return self._outer.read_at(self._base + offset, length)

    def close(self) -> None:
        self._outer.close()
