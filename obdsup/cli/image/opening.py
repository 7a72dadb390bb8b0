"""Opens what a command line names: a config or one layer file; keeps outputs off inputs."""

from __future__ import annotations

import contextlib
import os

from obdsup.errors import ConfigError
from obdsup.format import config, lsmt_header, zfile_header
from obdsup.format.blob import FileBlob
from obdsup.format.image import Image

__all__ = ["disk_or_image", "image_files", "open_image", "refuse_own_files"]


def _is_layer(path: str) -> bool:
    """By content: a known magic is a layer, an object or the name .json a config."""
    blob = FileBlob(path)
    try:
        head = blob.read_at(0, min(blob.size, 512))
    finally:
        blob.close()
    if zfile_header.has_magic(head) or lsmt_header.has_magic(head) or head[257:262] == b"ustar":
        return True
    return not (path.endswith(".json") or head.lstrip()[:1] == b"{")


def open_image(path: str) -> Image:
    """The image of a config, or of a single layer file."""
    return Image.of_layer(path) if _is_layer(path) else Image.open(path)


def image_files(path: str) -> config.ImageConfig:
    """The files of a config, or of a single layer file, for the C core to open."""
    if _is_layer(path):
        return config.ImageConfig(path, (config.Lower(path),), None)
    return config.load(path)


def disk_or_image(path: str, *, is_raw: bool) -> config.ImageConfig | str:
    """A raw disk's path as it is, else as ``image_files``."""
    return path if is_raw else image_files(path)


def refuse_own_files(output: str, inputs: list[str]) -> None:
    """An output may never replace a file it is made from, not with --force either."""
    for name in inputs:
        with contextlib.suppress(OSError):
            if os.path.samefile(output, name):
                raise ConfigError(f"{output}: is an input of this command too")
