"""A layer's tar into the file system of an image, through its writable layer; nothing is mounted.

What each entry means, and what a failure leaves, is said in ``native/tools/obd_apply.h``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from obdsup.errors import AlreadyServed, ConfigError, FormatError, NativeError
from obdsup.format.config import ImageConfig
from obdsup.image import long_call
from obdsup.image.long_call import Report
from obdsup.image.native import ffi, lib, new_info
from obdsup.image.spec import check_image, image_spec

__all__ = ["Applied", "apply_tar", "make_file_system"]

STDIN = "-"
_UNCHANGED = "the file system in the image is as it was"


@dataclass(frozen=True)
class Applied:
    """What was done; ``sha256`` is of the uncompressed tar, "" unless it was asked for."""

    entries: int
    data_bytes: int
    removed: int
    xattrs_skipped: int
    sha256: str


def _require_upper(image: ImageConfig) -> tuple[str, str]:
    if image.upper is None:
        raise ConfigError(
            f"{image.path}: has no upper to write to",
            hint='make one with "obdsup image new-upper" and name it in the config',
            path=image.path,
        )
    return image.upper


def _refuse_locked(code: int, upper: tuple[str, str]) -> None:
    if code == lib.OBD_E_LOCKED:
        raise AlreadyServed(
            f"{upper[0]}: in use: a worker or another command writes to it",
            hint="remove its device first",
            path=upper[0],
        )


def _open_input(path: str) -> int:
    if path == STDIN:
        return os.dup(0)
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(f"{path}: can not be read: {error.strerror}", path=path) from error


def _text(field: Any) -> str:
    return str(ffi.string(field).decode(errors="replace"))


def _refuse_input(tar: str, code: int, info: Any, result: Any) -> None:
    """Errors about the tar say where in it, and which entry; the others are for ``check_image``."""
    entry, path = _text(result.entry), _text(info.path)
    if code == lib.OBD_OK or info.sys_errno or path not in (tar, "" if entry else tar):
        return
    what = _text(info.what)
    if detail := _text(result.detail):
        what += f": {detail!r}"
    if info.expected or info.got:
        what += f": {info.expected}, {info.got}"
    if code in (lib.OBD_E_FORMAT, lib.OBD_E_UNSUPPORTED):
        raise FormatError(
            tar,
            int(result.entry_offset),
            "one that can be applied" if entry else "a whole tar",
            what,
            field=f"entry {entry!r}" if entry else "",
            hint=_UNCHANGED,
            entry=entry,
        )
    name = _text(lib.obd_err_name(code))
    raise NativeError(
        f"{tar}: entry {entry!r}: {what}" if entry else f"{tar}: {what}",
        hint=_UNCHANGED,
        op="apply",
        code=name,
        path=tar,
        entry=entry,
    )


def apply_tar(
    image: ImageConfig,
    tar: str,
    *,
    mkfs: bool = False,
    with_sha256: bool = False,
    expected_sha256: str = "",
    report: Report | None = None,
) -> Applied:
    """Applies the tar (plain, gzip or zstd; a file, a FIFO, or "-") and makes it durable.

    Args:
        mkfs: make an empty ext4 over all of the image first: what was in it is gone at once.
        expected_sha256: of the uncompressed tar; another one is refused, with nothing changed.

    Raises:
        AlreadyServed: the upper is being written to.
        ConfigError: no upper, no such input, a digest that is none.
        FormatError: no tar, no clean ext4; an entry that can not be meant (named).
        NativeError: the file system in the image, or the disk below it, is full; storage failed.
    """
    upper = _require_upper(image)
    keep: list[Any] = []  # what the structures point to
    spec = image_spec(image, keep)
    options = ffi.new("struct obd_apply_options *")
    keep.append(ffi.new("char[]", os.fsencode(tar)))
    options.tar_path, options.mkfs = keep[-1], mkfs
    options.digest = with_sha256 or bool(expected_sha256)
    if expected_sha256:
        options.expected = _digest(expected_sha256)
        options.has_expected = True
    result, info = ffi.new("struct obd_apply_result *"), new_info()
    options.tar_fd = _open_input(tar)
    try:
        code = long_call.run(
            lambda progress: int(lib.obd_apply(spec, options, progress, info, result)), report
        )
    finally:
        os.close(options.tar_fd)
    _refuse_locked(code, upper)
    if code == lib.OBD_E_CHECKSUM and expected_sha256 and not _text(info.path):
        found = bytes(ffi.buffer(result.digest)).hex()
        raise FormatError(tar, 0, expected_sha256, found, field="sha256 of the uncompressed tar")
    _refuse_input(tar, code, info, result)
    check_image(image, "apply", code, info)
    return Applied(
        entries=int(result.entries),
        data_bytes=int(result.data_bytes),
        removed=int(result.removed),
        xattrs_skipped=int(result.xattrs_skipped),
        sha256=bytes(ffi.buffer(result.digest)).hex() if options.digest else "",
    )


def _digest(text: str) -> bytes:
    digest = text.removeprefix("sha256:")
    try:
        value = bytes.fromhex(digest)
    except ValueError:
        value = b""
    if len(value) != 32:
        raise ConfigError(f"checksum: expected 64 hex digits of a sha256, found {text!r}")
    return value


def make_file_system(image: ImageConfig) -> None:
    """An empty ext4 over all of the image, which needs an upper. What was in it is gone.

    Raises:
        AlreadyServed, ConfigError, FormatError, NativeError: as ``apply_tar``.
    """
    upper = _require_upper(image)
    keep: list[Any] = []
    info = new_info()
    spec = image_spec(image, keep)
    code = long_call.run(lambda progress: int(lib.obd_apply_mkfs(spec, info)))
    _refuse_locked(code, upper)
    check_image(image, "apply", code, info)
