"""The files of an image as the C core takes them."""

from __future__ import annotations

import os
from typing import Any

from obdsup.format.config import ImageConfig
from obdsup.image.native import ffi

__all__ = ["image_spec"]


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
