"""Seals a writable layer in place: its data file becomes a read-only layer."""

from __future__ import annotations

import os
from dataclasses import dataclass

from obdsup.errors import AlreadyServed, NativeError
from obdsup.image.native import check, ffi, lib, new_info

__all__ = ["Sealed", "seal"]


@dataclass(frozen=True)
class Sealed:
    """The layer; ``garbage_bytes`` were overwritten and stay in the file."""

    file_bytes: int
    virtual_size_bytes: int
    segment_cnt: int
    garbage_bytes: int


def seal(data_path: str, index_path: str) -> Sealed:
    """Appends index and trailer to ``data_path``, durably, in this order.

    A crash before the trailer is on the disk leaves the writable layer as it was; then it can be
    sealed again. Afterwards the index file has no use, and nobody may write to the pair again.

    Raises:
        AlreadyServed: somebody writes to it.
        FormatError: the pair is damaged.
        NativeError: the storage failed, or it is sealed already.
    """
    done, info = ffi.new("struct obd_sealed_in_place *"), new_info()
    code = int(lib.obd_seal(os.fsencode(data_path), os.fsencode(index_path), info, done))
    if code == lib.OBD_E_LOCKED:
        raise AlreadyServed(
            f"{index_path}: somebody writes to it", hint="remove its device first", path=index_path
        )
    if code == lib.OBD_E_INVAL:
        raise NativeError(
            f"{data_path}: is sealed already",
            hint="use it as a layer of an image; obdsup image compact drops its garbage",
            path=data_path,
        )
    check("seal", code, info)
    return Sealed(
        int(done.file_bytes),
        int(done.virtual_size_bytes),
        int(done.segment_cnt),
        int(done.garbage_bytes),
    )
