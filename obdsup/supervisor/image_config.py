"""Which files an image's config.v1.json names. The worker's open is the full validation.

Lowers are resolved as the format says: ``file``, then ``dir``/overlaybd.commit, ``dir``/.commit,
``dir``/overlaybd.sealed; the first that exists wins.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from obdsup.errors import ConfigError

__all__ = ["ImageConfig", "read_image_config"]

MAX_CONFIG_BYTES = 8 * 1024 * 1024
MAX_LOWERS = 255
_IN_DIR = ("overlaybd.commit", ".commit", "overlaybd.sealed")


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """Absolute paths; lowers bottom to top."""

    lowers: tuple[str, ...]
    upper: tuple[str, str] | None  # data, index


def read_image_config(path: str) -> ImageConfig:
    """Reads and checks a configuration.

    Raises:
        ConfigError: not absolute, not there, not JSON, of the wrong types, or naming files that do
            not exist.
    """
    if not os.path.isabs(path):
        raise ConfigError(f"image {path!r} is not an absolute path")
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"image {path}: {error.strerror}", path=path) from error
    if len(raw) > MAX_CONFIG_BYTES:
        raise ConfigError(f"image {path}: longer than {MAX_CONFIG_BYTES} bytes", path=path)
    try:
        config = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"image {path}: not JSON: {error}", path=path) from error
    if not isinstance(config, dict):
        raise ConfigError(f"image {path}: not a JSON object", path=path)
    lowers = config.get("lowers", [])
    if not isinstance(lowers, list) or len(lowers) > MAX_LOWERS:
        raise ConfigError(f"image {path}: lowers must be a list of at most {MAX_LOWERS}", path=path)
    files = tuple(_lower(path, number, lower) for number, lower in enumerate(lowers))
    upper = _upper(path, config.get("upper"))
    if not files and upper is None:
        raise ConfigError(f"image {path}: names neither lowers nor an upper", path=path)
    return ImageConfig(files, upper)


def _text(path: str, where: str, record: dict[str, object], key: str) -> str:
    value = record.get(key, "")
    if not isinstance(value, str) or "\0" in value:
        raise ConfigError(f"image {path}: {where}.{key} must be a string", path=path)
    return os.path.join(os.path.dirname(path), value) if value else ""


def _lower(path: str, number: int, lower: object) -> str:
    where = f"lowers[{number}]"
    if not isinstance(lower, dict):
        raise ConfigError(f"image {path}: {where} must be an object", path=path)
    file, folder = _text(path, where, lower, "file"), _text(path, where, lower, "dir")
    candidates = [file] if file else []
    candidates += [str(Path(folder) / name) for name in _IN_DIR] if folder else []
    for candidate in candidates:
        if os.path.exists(candidate):
            return candidate
    raise ConfigError(
        f"image {path}: {where}: no such file: {', '.join(candidates) or 'neither file nor dir'}",
        hint="layers that are only in a registry are not served yet",
        path=path,
    )


def _upper(path: str, upper: object) -> tuple[str, str] | None:
    if upper is None or upper == {}:
        return None
    if not isinstance(upper, dict):
        raise ConfigError(f"image {path}: upper must be an object", path=path)
    data, index = _text(path, "upper", upper, "data"), _text(path, "upper", upper, "index")
    if not data and not index:
        return None
    for name in (data, index):
        if not name or not os.path.exists(name):
            raise ConfigError(
                f"image {path}: upper: no such file: {name or 'not named'}", path=path
            )
    return data, index
