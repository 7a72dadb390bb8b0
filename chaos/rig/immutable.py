"""Files nobody can write to, not even who has them open already: ext4's immutable flag.

A mount with files open for writing can not be made read-only from outside; what an error of the
disk does to it (all writes are refused from now on) is had this way, and can be taken back.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from chaos.rig.problem import RigError

__all__ = ["Immutable", "is_supported"]

FS_IOC_GETFLAGS = 0x80086601
FS_IOC_SETFLAGS = 0x40086602
FS_IMMUTABLE_FL = 0x10
FLAGS = struct.Struct("l")


class Immutable:
    """A context manager: inside, the files and folders can not be changed.

    In a folder nothing can be made or removed; what lies in it is not meant.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = list(paths)

    def __enter__(self) -> Self:
        """Sets the flags.

        Raises:
            RigError: the file system has none.
        """
        try:
            for path in self._paths:
                _set(path, is_immutable=True)
        except OSError as error:
            self._give_back()
            raise RigError(f"{path} can not be made immutable: {error}") from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._give_back()

    def _give_back(self) -> None:
        for path in self._paths:
            if path.exists():
                _set(path, is_immutable=False)


def is_supported(folder: Path) -> bool:
    """Whether the flag stops a writer that has the file open: on ext4, not on a tmpfs."""
    path = folder / f".immutable-{os.getpid()}"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        with Immutable([path]):
            os.pwrite(fd, b"x", 0)
        return False
    except RigError:
        return False
    except OSError as error:
        return error.errno == errno.EPERM
    finally:
        os.close(fd)
        path.unlink()


def _set(path: Path, *, is_immutable: bool) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        (flags,) = FLAGS.unpack(fcntl.ioctl(fd, FS_IOC_GETFLAGS, bytes(FLAGS.size)))
        flags = flags | FS_IMMUTABLE_FL if is_immutable else flags & ~FS_IMMUTABLE_FL
        fcntl.ioctl(fd, FS_IOC_SETFLAGS, FLAGS.pack(flags))
    finally:
        os.close(fd)
