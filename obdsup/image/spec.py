"""The files of an image as the C core takes them."""

from __future__ import annotations

import os
from typing import Any

from obdsup.errors import FormatError
from obdsup.format.config import ImageConfig
from obdsup.image.native import check, ffi, lib

__all__ = ["check_image", "image_spec"]


def image_spec(image: ImageConfig, keep: list[Any]) -> Any:
    """A ``struct obd_image_spec``; ``keep`` must live as long as it is used."""
    spec = ffi.new("struct obd_image_spec *")
    keep.append(spec)
    spec.lower_cnt = len(image.lowers)
    spec.lower_paths = _paths([lower.path for lower in image.lowers], keep)
    spec.target_paths = _paths([lower.target for lower in image.lowers], keep)
    spec.gzip_index_paths = _paths([lower.gzip_index for lower in image.lowers], keep)
    if image.upper is not None:
        data, index = (ffi.new("char[]", os.fsencode(path)) for path in image.upper)
        keep += [data, index]
        spec.upper_data, spec.upper_index = data, index
    return spec


def _paths(names: list[str], keep: list[Any]) -> Any:
    """An array of C strings, NULL for "" (a layer without target)."""
    texts = [ffi.new("char[]", os.fsencode(name)) if name else ffi.NULL for name in names]
    array = ffi.new("char *[]", texts)
    keep += [array, *texts]
    return ffi.cast("char const *const *", array)


def check_image(image: ImageConfig, op: str, code: int, info: Any) -> None:
    """As ``check``; what is wrong with the file system in the image names the image.

    Raises:
        FormatError, NativeError: as ``check``.
    """
    if code != lib.OBD_OK and not ffi.string(info.path):
        what = ffi.string(info.what).decode(errors="replace")
        if code == lib.OBD_E_FORMAT:
            if info.expected or info.got:
                what += f": {info.expected}, {info.got}"
            raise FormatError(
                image.path, int(info.offset_bytes), "a sound ext4 file system in it", what
            )
        info.path = os.fsencode(image.path)[:500]
    check(op, code, info)


def file_paths(image: ImageConfig) -> list[str]:
    """Every file the image is read from, its config among them."""
    targets = [path for one in image.lowers for path in (one.target, one.gzip_index) if path]
    return [image.path, *(one.path for one in image.lowers), *targets, *(image.upper or ())]
