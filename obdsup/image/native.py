"""Errors of the tools' C core as exceptions. Modules here call ``obdsup._tools`` through it."""

from __future__ import annotations

import os
from typing import Any

from obdsup._tools import ffi, lib
from obdsup.errors import FormatError, NativeError, ObdError

__all__ = ["check", "ffi", "lib", "new_info"]

_FORMAT_CODES = (lib.OBD_E_FORMAT, lib.OBD_E_CHECKSUM, lib.OBD_E_SHORT)


def new_info() -> Any:
    """A ``struct obd_errinfo`` for one call."""
    return ffi.new("struct obd_errinfo *")


def _text(field: Any) -> str:
    return str(ffi.string(field).decode(errors="replace"))


def check(op: str, code: int, info: Any) -> None:
    """Raises what ``code`` and ``info`` say; returns when code is OBD_OK.

    Raises:
        FormatError: a file is not what it must be (path, offset, expected, found).
        NativeError: everything else; ``fields`` has code, path and errno.
    """
    if code != lib.OBD_OK:
        raise _error(op, code, info)


def _error(op: str, code: int, info: Any) -> ObdError:
    path, what = _text(info.path), _text(info.what)
    offset, expected, got = int(info.offset_bytes), int(info.expected), int(info.got)
    name = _text(lib.obd_err_name(code))
    if code in _FORMAT_CODES and path:
        return FormatError(path, offset, expected, got, field=what, code=name)
    message = f"{path}: {op}: {what or name}" if path else f"{op}: {what or name}"
    if info.sys_errno:
        message += f": {os.strerror(info.sys_errno)}"
    elif expected or got:
        message += f": expected {expected}, found {got}"
    return NativeError(message, op=op, code=name, path=path, errno=info.sys_errno)
