"""What the C core says of an image when it opens one."""

from __future__ import annotations

from typing import Any

from obdsup.errors import ConfigError
from obdsup.format.config import ImageConfig
from obdsup.image.native import check, ffi, lib, new_info
from obdsup.image.spec import image_spec

__all__ = ["size_of"]


def size_of(image: ImageConfig) -> int:
    """The virtual size in bytes; opens all files for it.

    Raises:
        FormatError, NativeError: a file is damaged or can not be opened.
        ConfigError: no layer has a virtual size.
    """
    keep: list[Any] = []
    info, opened = new_info(), ffi.new("struct obd_image **")
    check("open", int(lib.obd_image_create(image_spec(image, keep), info, opened)), info)
    try:
        size = int(lib.obd_image_virtual_size_bytes(opened[0]))
    finally:
        lib.obd_image_destroy(opened[0])
    if not size:
        raise ConfigError(f"{image.path}: no layer has a virtual size", path=image.path)
    return size
