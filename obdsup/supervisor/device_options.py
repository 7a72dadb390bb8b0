"""What ``device.create`` may choose for a device, checked."""

from __future__ import annotations

from typing import Any

from obdsup.errors import ConfigError
from obdsup.state.device import DeviceOptions

__all__ = ["parse_options"]

DEVICES_PER_WORKER_MAX = 64
MEMORY_MIN_BYTES = 64 << 20  # a worker with one small image needs about half of it


def parse_options(request: dict[str, Any]) -> DeviceOptions:
    """The fields ``restore``, ``devices_per_worker`` and ``memory_max`` (bytes) of a request.

    Raises:
        ConfigError: a value that is not usable.
    """
    is_restored = request.get("restore", False)
    if not isinstance(is_restored, bool):
        raise ConfigError(f"restore {is_restored!r} is neither true nor false")
    return DeviceOptions(
        is_restored=is_restored,
        devices_per_worker=_number(request, "devices_per_worker", 1, 1, DEVICES_PER_WORKER_MAX),
        memory_max_bytes=_number(request, "memory_max", 0, MEMORY_MIN_BYTES, 1 << 50),
    )


def _number(request: dict[str, Any], key: str, default: int, low: int, high: int) -> int:
    value = request.get(key)
    if value is None or value == default:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ConfigError(f"{key} {value!r} is not usable", hint=f"{low} to {high}")
    return value
