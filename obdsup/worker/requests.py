"""Requests of the control protocol, checked: a peer that sends nonsense gets an error, no more.

Source: obdsup/state/DESIGN.md, worker control protocol.
"""

from __future__ import annotations

import json

from obdsup.errors import ConfigError, ControlError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from obdsup.state.messages import Packet

__all__ = ["ImageConfigFile", "ImageFiles", "Request", "ServeOrder", "parse"]

MAX_LOWERS = 255
MAX_TIMEOUT_MS = 24 * 3600 * 1000
POISON_AFTER = 3  # deaths; what is asked for when nobody says
MAX_POISON_AFTER = 65535
MAX_SPEC_BYTES = 32 * 1024
RING_FDS = {"uio": 1, "memfd": 3}
SERVE_OPTIONS = frozenset({"blamed", "poison_after"})
_NAME_MAX = 128


class ImageFiles:
    """The files of an image: absolute paths, lowers bottom to top. Compares by value."""

    __slots__ = ("lowers", "upper")

    def __init__(self, lowers: list[str], upper: tuple[str, str] | None) -> None:
        self.lowers, self.upper = lowers, upper

    def resolve(self) -> ImageFiles:
        """The files themselves: nothing is left to look up."""
        return self

    def to_json(self) -> dict[str, object]:
        """As in a message."""
        upper = {"data": self.upper[0], "index": self.upper[1]} if self.upper else None
        return {"lowers": self.lowers, "upper": upper}

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, ImageFiles)
            and self.lowers == other.lowers
            and self.upper == other.upper
        )

    __hash__ = None  # type: ignore[assignment]


class ImageConfigFile:
    """An image named by its config.v1.json, which only ``prewarm`` takes: who asked keeps the
    answer's files, so that a config edited later does not change a device.
    """

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path

    def resolve(self) -> ImageFiles:
        """Reads the config; may wait for a disk.

        Raises:
            ConfigError: as obdsup.format.config.load.
        """
        from obdsup.format import config  # once per device, in one worker: not worth its memory

        loaded = config.load(self.path)
        return ImageFiles(loaded.lower_lines(), loaded.upper)


def _flag(body: dict[str, Any], name: str) -> bool:
    value = body.get(name, False)
    if not isinstance(value, bool):
        raise ConfigError(f"{name}: expected true or false, found {value!r}")
    return value


def _spec(body: dict[str, Any]) -> dict[str, Any]:
    """What the supervisor knows of the device, kept for one that lost it; not looked into."""
    spec: dict[str, Any] = _get(body, "spec", dict) if "spec" in body else {}
    if len(json.dumps(spec)) > MAX_SPEC_BYTES:
        raise ConfigError(f"spec: expected at most {MAX_SPEC_BYTES} bytes of JSON")
    return spec


def _options(body: dict[str, Any], version: int) -> dict[str, Any]:
    """What else ``serve`` asks for. Version 1 has it beside the other fields, where one that the
    worker does not know goes unnoticed; later ones are refused for it."""
    if version == 1:
        return body
    options = body.get("options", {})
    if not isinstance(options, dict):
        raise ConfigError(f"options: expected an object, found {options!r}")
    unknown = sorted((options.keys() - SERVE_OPTIONS) | (body.keys() & SERVE_OPTIONS))
    if unknown:
        raise ConfigError(
            f"{', '.join(unknown)}: expected in options: {', '.join(sorted(SERVE_OPTIONS))}",
            hint="the supervisor asks for more than this release of the worker knows",
        )
    return options


class ServeOrder:
    """What ``serve`` asks beside the image; the fds belong to the request's packet."""

    __slots__ = (
        "boot_id", "generation", "is_blamed", "kind", "map_bytes", "mode", "poison_after", "spec",
        "uuid",
    )  # fmt: skip

    def __init__(self, body: dict[str, Any], version: int) -> None:
        ring = _get(body, "ring", dict)
        self.kind: str = _get(ring, "kind", str)
        if self.kind not in RING_FDS:
            raise ConfigError(f"ring.kind {self.kind!r}: expected one of {sorted(RING_FDS)}")
        self.map_bytes: int = _number(ring, "map_bytes", 1, 1 << 40)
        self.mode: str = _get(body, "mode", str)
        if self.mode not in ("fresh", "recover"):
            raise ConfigError(f"mode {self.mode!r}: expected 'fresh' or 'recover'")
        self.generation: int = _number(body, "generation", 1, (1 << 64) - 1)
        self.uuid: bytes = _uuid(body, "uuid")
        self.boot_id: bytes = _uuid(body, "boot_id")
        self.spec: dict[str, Any] = _spec(body)
        options = _options(body, version)
        self.is_blamed: bool = _flag(options, "blamed")
        self.poison_after: int = POISON_AFTER
        if "poison_after" in options:
            self.poison_after = _number(options, "poison_after", 0, MAX_POISON_AFTER)


class Request:
    """One checked request. ``packet`` owns the fds that came with it until they are taken out."""

    __slots__ = (
        "config", "device", "image", "is_last", "number", "of_others", "op", "packet", "serve",
        "timeout_ms",
    )  # fmt: skip

    def __init__(self, packet: Packet) -> None:
        body = packet.body
        self.packet = packet
        self.number: object = body.get("id")
        self.op: str = _get(body, "op", str)
        self.device = ""
        self.image: ImageFiles | ImageConfigFile | None = None
        self.serve: ServeOrder | None = None
        self.timeout_ms = 0
        self.is_last = False
        self.of_others = self.op == "forget" and _flag(body, "others")
        self.config = _path(body.get("config"), "config") if self.op == "read_config" else ""
        if self.op not in _OPS:
            raise ControlError(f"unknown operation {self.op!r}: expected one of {sorted(_OPS)}")
        is_named = self.op in _DEVICE_OPS and not self.of_others
        if is_named or (self.op in _OPTIONAL_DEVICE_OPS and "device" in body):
            self.device = _name(body)
        if self.op in ("prewarm", "serve"):
            self.image = _image(body, may_be_config=self.op == "prewarm")
        if self.op == "drain":
            self.timeout_ms = _number(body, "timeout_ms", 0, MAX_TIMEOUT_MS)
            self.is_last = _flag(body, "is_last")
        if self.op == "serve":
            self.serve = ServeOrder(body, packet.version)
        wanted = RING_FDS[self.serve.kind] + 1 if self.serve else 0
        if len(packet.fds) != wanted:
            raise ControlError(f"{self.op} came with {len(packet.fds)} fds, expected {wanted}")


_DEVICE_OPS = {"prewarm", "forget", "serve", "drain"}
_OPTIONAL_DEVICE_OPS = {"hello", "stats"}
_OPS = _DEVICE_OPS | _OPTIONAL_DEVICE_OPS | {"stop", "read_config"}


def parse(packet: Packet) -> Request:
    """Checks a packet.

    Raises:
        ControlError: unknown operation, or the wrong number of fds.
        ConfigError: a field is missing or of the wrong type or value.
    """
    return Request(packet)


def _get(body: dict[str, Any], key: str, kind: type) -> Any:
    value = body.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ConfigError(f"{key}: expected {kind.__name__}, found {value!r}")
    return value


def _number(body: dict[str, Any], key: str, low: int, high: int) -> int:
    value: int = _get(body, key, int)
    if not low <= value <= high:
        raise ConfigError(f"{key}: expected {low} to {high}, found {value}")
    return value


def _name(body: dict[str, Any]) -> str:
    name: str = _get(body, "device", str)
    if not 0 < len(name) <= _NAME_MAX or "\0" in name or "/" in name:
        raise ConfigError(f"device: expected a name of 1 to {_NAME_MAX} characters, found {name!r}")
    return name


def _uuid(body: dict[str, Any], key: str) -> bytes:
    text: str = _get(body, key, str)
    try:
        value = bytes.fromhex(text.replace("-", ""))
    except ValueError:
        value = b""
    if len(value) != 16:
        raise ConfigError(f"{key}: expected a UUID, found {text!r}")
    return value


def _path(value: object, key: str) -> str:
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise ConfigError(f"{key}: expected an absolute path, found {value!r}")
    return value


def _image(body: dict[str, Any], *, may_be_config: bool) -> ImageFiles | ImageConfigFile:
    image = _get(body, "image", dict)
    if may_be_config and "config" in image:
        return ImageConfigFile(_path(image["config"], "image.config"))
    lowers = [_path(p, "image.lowers") for p in _get(image, "lowers", list)]
    if len(lowers) > MAX_LOWERS:
        raise ConfigError(f"image.lowers: expected at most {MAX_LOWERS}, found {len(lowers)}")
    upper = image.get("upper")
    if upper is None:
        if not lowers:
            raise ConfigError("image: expected a lower or an upper, found neither")
        return ImageFiles(lowers, None)
    if not isinstance(upper, dict):
        raise ConfigError(f"image.upper: expected an object or null, found {upper!r}")
    pair = (
        _path(upper.get("data"), "image.upper.data"),
        _path(upper.get("index"), "image.upper.index"),
    )
    return ImageFiles(lowers, pair)
