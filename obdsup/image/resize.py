"""Another virtual size for an image with an upper, and for the ext4 in it.

libext2fs can not resize; ``resize2fs`` can, on a file. So the disk is exported beside the upper,
resized there, and what changed is written back. Order, so that a crash leaves a file system that is
no larger than its disk:

| grow                         | shrink                         |
|------------------------------|--------------------------------|
| virtual size in both headers | resize2fs on the copy          |
| resize2fs on the copy        | changed blocks written back    |
| changed blocks written back  | virtual size in both headers   |

A cut while blocks are written back leaves a superblock that says "not valid".
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from obdsup.errors import AlreadyServed, ConfigError, FormatError, ObdError
from obdsup.format import lsmt_header
from obdsup.format.config import ImageConfig
from obdsup.format.lsmt_header import AREA_BYTES, LsmtFlags
from obdsup.format.units import SECTOR_BYTES
from obdsup.image import long_call
from obdsup.image.long_call import Report
from obdsup.image.native import ffi, lib, new_info
from obdsup.image.spec import check_image, image_spec

__all__ = ["Resized", "resize"]

_VIRTUAL_SIZE_AT = 48
_BLOCK_BYTES = 4096
_BAD_LOST_FOUND = "Invalid HTREE directory inode 11 (/lost+found)"


@dataclass(frozen=True)
class Resized:
    """What was done; ``changed_bytes`` of the file system were written."""

    old_size_bytes: int
    new_size_bytes: int
    changed_bytes: int


@contextlib.contextmanager
def _writer_lock(index: str) -> Iterator[None]:
    """The lock of the one who writes to the pair.

    Raises:
        AlreadyServed: somebody has it.
    """
    with open(index, "r+b") as file:
        try:
            flock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            fcntl.fcntl(file, fcntl.F_OFD_SETLK, flock)
        except BlockingIOError as error:
            raise AlreadyServed(
                f"{index}: in use: a worker or another command writes to it",
                hint="remove its device first",
                path=index,
            ) from error
        yield


def _virtual_size(data: str) -> int:
    with open(data, "rb") as file:
        return lsmt_header.decode(file.read(AREA_BYTES), data, 0).virtual_size_bytes


def _set_virtual_size(upper: tuple[str, str], size_bytes: int) -> None:
    """In both headers, durably: the index first, which no reader takes the size from."""
    data, index = upper
    with _writer_lock(index):
        with open(data, "rb") as file:
            is_sparse = LsmtFlags.SPARSE in lsmt_header.decode(file.read(AREA_BYTES), data, 0).flags
        for path in (index, data):
            with open(path, "r+b") as file:
                if os.fstat(file.fileno()).st_size:  # the index of a sparse layer is empty
                    os.pwrite(file.fileno(), struct.pack("<Q", size_bytes), _VIRTUAL_SIZE_AT)
                if path == data and is_sparse:
                    os.ftruncate(file.fileno(), AREA_BYTES + size_bytes)
                os.fsync(file.fileno())


def _run(command: list[str], disk: str) -> tuple[int, str]:
    """A program of e2fsprogs on the copy: its exit code, and what it says.

    Raises:
        ConfigError: it is not there.
    """
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
    except FileNotFoundError as error:
        raise ConfigError(f"{command[0]}: not found", hint="install e2fsprogs") from error
    lines = done.stdout.decode(errors="replace").replace(disk, "the copy").split("\n")
    return done.returncode, "; ".join(line for line in map(str.strip, lines) if line)[-400:]


def _require(image: ImageConfig, program: str, is_good: bool, said: str) -> None:
    if not is_good:
        raise FormatError(
            image.path, 0, f"a file system that {program} can work with", said or "failed"
        )


def _check_copy(image: ImageConfig, disk: str) -> None:
    """e2fsck, which resize2fs wants first; mends what can be mended without a question."""
    check = ["e2fsck", "-f", "-p", disk]
    code, said = _run(check, disk)
    if code > 1 and _BAD_LOST_FOUND in said:
        # overlaybd's own mkfs leaves it so, in every image: it says "hash tree", and is none
        _run(["debugfs", "-w", "-R", "set_inode_field <11> flags 0x80000", disk], disk)
        code, said = _run(check, disk)
    _require(image, "e2fsck", code <= 1, said)


def _resize_copy(image: ImageConfig, disk: str, size_bytes: int) -> None:
    _check_copy(image, disk)
    os.truncate(disk, max(os.path.getsize(disk), size_bytes))
    code, said = _run(["resize2fs", "-f", disk, f"{size_bytes // 1024}K"], disk)
    _require(image, "resize2fs", code == 0, said)
    os.truncate(disk, size_bytes)
    _check_copy(image, disk)  # with sparse_super2, which overlaybd sets, it leaves a bit too few


def _export(image: ImageConfig, file: Any, report: Report | None) -> None:
    keep: list[Any] = []
    info, spec = new_info(), image_spec(image, keep)
    path = os.fsencode(file.name)
    code = long_call.run(
        lambda progress: int(lib.obd_resize_export(spec, file.fileno(), path, progress, info)),
        report,
    )
    check_image(image, "export", code, info)


def _store(image: ImageConfig, upper: tuple[str, str], disk: str, report: Report | None) -> int:
    keep: list[Any] = []
    info, spec = new_info(), image_spec(image, keep)
    result = ffi.new("struct obd_resize_result *")
    path = os.fsencode(disk)
    code = long_call.run(
        lambda progress: int(lib.obd_resize_store(spec, path, progress, info, result)), report
    )
    if code == lib.OBD_E_LOCKED:
        raise AlreadyServed(f"{upper[0]}: in use: somebody began to write to it", path=upper[0])
    check_image(image, "write back", code, info)
    return int(result.changed_bytes)


def resize(image: ImageConfig, size_bytes: int, report: Report | None = None) -> Resized:
    """Gives the image, and the ext4 in it, another size. The device must not be in use.

    Raises:
        AlreadyServed: somebody writes to the upper.
        ConfigError: no upper, a size that is none.
        FormatError: no ext4, or one that needs a repair first; it does not fit into the size.
        NativeError, ObdError: the storage failed.
    """
    if image.upper is None:
        raise ConfigError(f"{image.path}: has no upper to write to", path=image.path)
    if size_bytes % _BLOCK_BYTES or not 0 < size_bytes <= lsmt_header.MAX_VIRTUAL_BYTES:
        raise ConfigError(
            f"size: expected a multiple of {_BLOCK_BYTES} bytes of at most"
            f" {lsmt_header.MAX_VIRTUAL_BYTES}, found {size_bytes}"
        )
    upper, old = image.upper, _virtual_size(image.upper[0])
    with _writer_lock(upper[1]):
        pass  # somebody who serves it is refused before any work
    folder = os.path.dirname(upper[0])
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".resize.", suffix=".disk") as file:
            file.truncate(old // SECTOR_BYTES * SECTOR_BYTES)
            _export(image, file, report)
            if size_bytes >= old:
                # checked before the size changes: nothing is left half done by a refusal
                _resize_copy(image, file.name, size_bytes)
                _set_virtual_size(upper, size_bytes)
                changed = _store(image, upper, file.name, report)
            else:
                _resize_copy(image, file.name, size_bytes)
                changed = _store(image, upper, file.name, report)
                _set_virtual_size(upper, size_bytes)
    except OSError as error:
        raise ObdError(f"{upper[0]}: can not be resized: {error.strerror}") from error
    return Resized(old, size_bytes, changed)
