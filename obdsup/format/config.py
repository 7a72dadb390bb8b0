"""``config.v1.json``: which files make up an image, from the bottom layer to the top.

| key               | type           | meaning                                                     |
|-------------------|----------------|-------------------------------------------------------------|
| lowers            | array          | sealed layers, bottom to top: file, dir, digest, size, and  |
|                   |                | of turboOCI ones targetFile, gzipIndex                      |
| upper             | object         | writable layer: data, index; {} or absent = read-only       |
| repoBlobUrl       | string         | where remote layers would come from                         |
| resultFile        | string         | where the outcome of opening is reported                    |
| recordTracePath   | string         | prefetch trace; not used                                    |
| accelerationLayer | bool           | refused: the last lower would not be a disk layer           |

Refused by name: ``targetDigest`` of a lower without a ``targetFile`` (a remote turboOCI layer),
``target`` and ``gzipIndex`` of an upper.

A lower is the first that exists of ``file``, ``dir``/overlaybd.commit, ``dir``/.commit and
``dir``/overlaybd.sealed. Other keys are ignored, as the reference does: snapshotters write some.
Source: overlaybd-formats 5.1.

This module imports neither dataclasses nor typing nor a codec: it costs a worker next to nothing.
"""

from __future__ import annotations

import errno
import json
import os
import stat

from obdsup.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Never

__all__ = ["MAX_LOWERS", "ImageConfig", "Lower", "load", "result_file"]

MAX_LOWERS = 255
_MAX_CONFIG_BYTES = 4 << 20
_DIR_NAMES = ("overlaybd.commit", ".commit", "overlaybd.sealed")
_TURBO_UPPER = ("target", "gzipIndex")


class Lower:
    """A sealed layer's file; of a turboOCI layer also its target and, if that is gzip, the index.

    Does not change.
    """

    __slots__ = ("gzip_index", "path", "target")

    path: str
    target: str
    gzip_index: str

    def __init__(self, path: str, target: str = "", gzip_index: str = "") -> None:
        for name, value in (("path", path), ("target", target), ("gzip_index", gzip_index)):
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> Never:
        raise AttributeError(f"Lower does not change: {name}")


class ImageConfig:
    """The files of an image: absolute paths that existed when it was loaded. Does not change."""

    __slots__ = ("lowers", "path", "result_file", "upper")

    path: str
    result_file: str
    lowers: tuple[Lower, ...]
    upper: tuple[str, str] | None

    def __init__(
        self,
        path: str,
        lowers: tuple[Lower, ...],
        upper: tuple[str, str] | None,
        result_file: str = "",
    ) -> None:
        fields = {"path": path, "lowers": lowers, "upper": upper, "result_file": result_file}
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> Never:
        raise AttributeError(f"ImageConfig does not change: {name}")

    def lower_lines(self) -> list[str]:
        """The sealed layers, bottom to top, as workers are told of them: a path, or for turboOCI
        the layer's, its target's and that of the target's gzip index or "", a line each.
        """
        return [
            "\n".join((lower.path, lower.target, lower.gzip_index)) if lower.target else lower.path
            for lower in self.lowers
        ]

    def lower_paths(self) -> list[str]:
        """The sealed layers, bottom to top, for who can read them without a target.

        Raises:
            ConfigError: one is a turboOCI layer: its file alone would be read as something else.
        """
        for position, lower in enumerate(self.lowers):
            if lower.target:
                key = f"lowers[{position}].targetFile"
                raise ConfigError(
                    f"{self.path}: {key}: turboOCI layers are not supported here",
                    hint="obdsup image info, verify and export read them",
                    path=self.path,
                    key=key,
                )
        return [lower.path for lower in self.lowers]


def load(path: str) -> ImageConfig:
    """Reads and resolves a config.

    Raises:
        ConfigError: not readable, not JSON, a value of the wrong type, a path that is relative or
            has "..", a layer that is missing, remote, not a file, or there twice, something not
            supported. Names the file, the key, what was expected and found.
    """
    config = _read_object(path)
    _refuse(path, "", config, ("accelerationLayer",), "an acceleration layer", bool)
    lowers = tuple(
        _resolve_lower(path, f"lowers[{position}]", _typed(path, f"lowers[{position}]", item, dict))
        for position, item in enumerate(_get(path, "", config, "lowers", list))
    )
    upper = _resolve_upper(path, _get(path, "", config, "upper", dict))
    _get(path, "", config, "repoBlobUrl", str)
    _get(path, "", config, "recordTracePath", str)
    _get(path, "", config, "download", dict)
    if len(lowers) > MAX_LOWERS:
        raise ConfigError(f"{path}: lowers: expected at most {MAX_LOWERS}, found {len(lowers)}")
    if not lowers and upper is None:
        raise ConfigError(f"{path}: expected lowers or an upper, found neither")
    _refuse_repeats(path, lowers, upper)
    return ImageConfig(path, lowers, upper, _get(path, "", config, "resultFile", str))


def result_file(path: str) -> str:
    """Where a config wants the outcome of opening reported, however wrong the rest of it is.

    "" when it says nothing usable: no absolute path, or no config that can be read.
    """
    try:
        value = _read_object(path).get("resultFile")
        return _absolute(path, "resultFile", value) if isinstance(value, str) and value else ""
    except ConfigError:
        return ""


def _read_object(path: str) -> dict[str, Any]:
    try:
        # O_NONBLOCK through the opener: a FIFO by that name must not hang us.
        with open(path, "rb", opener=lambda p, f: os.open(p, f | os.O_NONBLOCK)) as file:
            raw = file.read(_MAX_CONFIG_BYTES + 1) or b""
    except OSError as error:
        raise ConfigError(
            f"{path}: can not be read: {error.strerror}", path=path, errno=error.errno
        ) from error
    except ValueError as error:
        raise ConfigError(f"{path!r}: not a file name: {error}") from error
    if len(raw) > _MAX_CONFIG_BYTES:
        raise ConfigError(f"{path}: expected a config of at most {_MAX_CONFIG_BYTES} bytes")
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not JSON: {error}", path=path) from error
    return _typed(path, "the config", value, dict)  # type: ignore[no-any-return]


def _json_name(kind: type) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "true or false"}
    return names.get(kind, "a number")


def _typed(path: str, key: str, value: Any, kind: type) -> Any:
    if type(value) is not kind:
        found = "null" if value is None else _json_name(type(value))
        if isinstance(value, bool | int | float):  # anything longer may hold credentials
            found = f"{found}: {json.dumps(value)}"
        raise ConfigError(
            f"{path}: {key}: expected {_json_name(kind)}, found {found}", path=path, key=key
        )
    return value


def _get(path: str, at: str, table: dict[str, Any], name: str, kind: type) -> Any:
    """The value of a key, or the empty value of its type when it is not there."""
    if name not in table:
        return kind()
    return _typed(path, f"{at}.{name}" if at else name, table[name], kind)


def _refuse(
    path: str, at: str, table: dict[str, Any], names: tuple[str, ...], what: str, kind: type = str
) -> None:
    for name in names:
        if _get(path, at, table, name, kind):
            key = f"{at}.{name}" if at else name
            raise ConfigError(f"{path}: {key}: {what} is not supported", path=path, key=key)


def _absolute(path: str, key: str, value: str) -> str:
    if not value.startswith("/") or ".." in value.split("/") or "\0" in value or "\n" in value:
        raise ConfigError(
            f'{path}: {key}: expected an absolute path without "..", found {value!r}',
            path=path,
            key=key,
        )
    return value


def _resolve_lower(path: str, at: str, lower: dict[str, Any]) -> Lower:
    target = _get(path, at, lower, "targetFile", str)
    index = _get(path, at, lower, "gzipIndex", str)
    if not target:
        _refuse(path, at, lower, ("targetDigest",), "a remote turboOCI layer")
        _refuse(path, at, lower, ("gzipIndex",), "an index without targetFile")
        return Lower(_resolve_file(path, at, lower))
    _get(path, at, lower, "targetDigest", str)
    _absolute(path, f"{at}.targetFile", target)
    if index:
        _absolute(path, f"{at}.gzipIndex", index)
    return Lower(_resolve_file(path, at, lower), target, index)


def _resolve_file(path: str, at: str, lower: dict[str, Any]) -> str:
    _get(path, at, lower, "digest", str)
    _get(path, at, lower, "size", int)
    candidates: list[str] = []
    if file := _get(path, at, lower, "file", str):
        candidates.append(_absolute(path, f"{at}.file", file))
    if folder := _get(path, at, lower, "dir", str):
        _absolute(path, f"{at}.dir", folder)
        candidates.extend(os.path.join(folder, name) for name in _DIR_NAMES)
    for candidate in candidates:
        if os.path.lexists(candidate):
            return candidate
    if lower.get("digest"):
        raise ConfigError(
            f"{path}: {at}: {lower['digest']} is not on this host; remote layers are not supported",
            hint=f"download it to {candidates[0]}" if candidates else "give file or dir",
            path=path,
            key=at,
            errno=errno.ENOENT,
        )
    tried = ", ".join(candidates) or "no file, dir or digest"
    raise ConfigError(
        f"{path}: {at}: no layer file found: {tried}", path=path, key=at, errno=errno.ENOENT
    )


def _resolve_upper(path: str, upper: dict[str, Any]) -> tuple[str, str] | None:
    _refuse(path, "upper", upper, _TURBO_UPPER, "turboOCI")
    data = _get(path, "upper", upper, "data", str)
    index = _get(path, "upper", upper, "index", str)
    if not data and not index:
        return None
    if not data or not index:
        missing = "index" if data else "data"
        raise ConfigError(f"{path}: upper: expected data and index, found no {missing}", path=path)
    return _absolute(path, "upper.data", data), _absolute(path, "upper.index", index)


def _refuse_repeats(path: str, lowers: tuple[Lower, ...], upper: tuple[str, str] | None) -> None:
    """Each file exists, is a file (or device), and has one place in the image only."""
    places: dict[tuple[int, int], str] = {}
    named: list[tuple[str, str]] = []
    for i, lower in enumerate(lowers):
        keys = {"": lower.path, ".targetFile": lower.target, ".gzipIndex": lower.gzip_index}
        named += [(f"lowers[{i}]{key}", name) for key, name in keys.items() if name]
    if upper is not None:
        named += [("upper.data", upper[0]), ("upper.index", upper[1])]
    for key, name in named:
        try:
            status = os.stat(name)
        except OSError as error:
            raise ConfigError(
                f"{path}: {key}: {name}: {error.strerror}", path=path, errno=error.errno
            ) from error
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISBLK(status.st_mode)):
            kind = "a directory" if stat.S_ISDIR(status.st_mode) else "something else"
            raise ConfigError(
                f"{path}: {key}: {name}: expected a regular file, found {kind}", path=path, key=key
            )
        identity = (status.st_dev, status.st_ino)
        twin = places.get(identity)
        if twin is not None and not _is_read_twice(key, twin):
            raise ConfigError(f"{path}: {key}: {name} is {twin} already", path=path, key=key)
        places[identity] = key


def _is_read_twice(key: str, twin: str) -> bool:
    """Layers of equal content may share a target and its index."""
    kind = key.rpartition(".")[2]
    return kind in ("targetFile", "gzipIndex") and twin.endswith(f".{kind}")
