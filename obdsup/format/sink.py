"""Sinks: where writers put bytes. A file appears under its name whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from typing import BinaryIO, Protocol

from obdsup.errors import ConfigError, ObdError

__all__ = ["SeekableSink", "Sink", "atomic_output"]


class Sink(Protocol):
    """Accepts bytes in order."""

    def write(self, data: bytes, /) -> object:
        """Appends all of ``data``."""


class SeekableSink(Sink, Protocol):
    """A sink that can be written again from its start."""

    def seek(self, offset: int, /) -> object:
        """Moves to ``offset`` bytes."""


@contextlib.contextmanager
def atomic_output(path: str, *, may_replace: bool = False) -> Iterator[BinaryIO]:
    """A new file for writing that becomes ``path`` when the block ends without an exception.

    The bytes go to a hidden file in the same directory, which is synced, renamed, and the directory
    synced: after a crash at any point ``path`` is what it was before, or complete. Any exception,
    KeyboardInterrupt too, removes the hidden file.

    Raises:
        ConfigError: ``path`` exists and ``may_replace`` is not set; its directory is not writable.
        ObdError: the storage failed or is full.
    """
    directory, name = os.path.split(os.path.abspath(path))
    refuse_existing(path, may_replace=may_replace)
    temporary = os.path.join(directory, f".{name[:200]}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb", buffering=1 << 20) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        refuse_existing(path, may_replace=may_replace)
        os.rename(temporary, path)
        sync_directory(directory)
    except OSError as error:
        raise ObdError(
            f"{path}: can not be written: {error.strerror}", hint="check space and permissions"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def refuse_existing(path: str, *, may_replace: bool) -> None:
    """Raises ConfigError when ``path`` exists and may not be replaced, or is not a file."""
    if os.path.isdir(path):
        raise ConfigError(f"{path}: expected a file name, found a directory")
    if os.path.lexists(path) and not may_replace:
        raise ConfigError(f"{path}: exists already", hint="--force replaces it", path=path)


def sync_directory(directory: str) -> None:
    """Makes names in ``directory`` durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
