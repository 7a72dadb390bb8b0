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
    lowers = [ffi.new("char[]", os.fsencode(path)) for path in image.lower_paths()]
    paths = ffi.new("char *[]", lowers)
    keep += [spec, paths, *lowers]
    spec.lower_paths, spec.lower_cnt = ffi.cast("char const *const *", paths), len(lowers)
    if image.upper is not None:
        data, index = (ffi.new("char[]", os.fsencode(path)) for path in image.upper)
        keep += [data, index]
        spec.upper_data, spec.upper_index = data, index
    return spec


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
