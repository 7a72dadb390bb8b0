"""What a worker is told of its device, and a row made anew from it.

The row in state.db and its copy may both be lost while the worker serves on. With ``serve`` it is
given what it could not know, and tells it in the answer to a ``hello`` that names the device,
beside the files of the image, which it does know. What changes while a device is served (phase,
block device, counts, quarantine) is not part of it.
"""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from typing import Any

from obdsup.errors import StateError
from obdsup.state.device import DeviceOptions, DeviceRow

__all__ = ["HISTORY", "OPTION_NAMES", "row_of_spec", "spec_of"]

HISTORY = ("takeovers", "last_takeover", "quarantine")  # of a device; lost with its row
OPTION_NAMES = tuple(field.name for field in fields(DeviceOptions))
_TYPES: dict[str, type | tuple[type, ...]] = {
    "name": str, "uuid": str, "config": str, "size_bytes": int, "provider": str,
    "provider_ids": dict, "created": (int, float), "options": dict, "release": str,
}  # fmt: skip


def spec_of(row: DeviceRow) -> dict[str, object]:
    """What a worker is to keep; JSON values only."""
    return {
        "name": row.name, "uuid": row.uuid, "config": row.image, "size_bytes": row.size_bytes,
        "provider": row.provider, "provider_ids": row.provider_ids, "created": row.created,
        "options": asdict(row.options), "release": row.release,
    }  # fmt: skip


def row_of_spec(
    spec: object, image: object, phase: str, generation: int
) -> tuple[DeviceRow, tuple[str, ...]]:
    """The row, and the names of the options that the spec does not have and that got defaults.

    Args:
        spec: as ``spec_of`` made it, perhaps in another release.
        image: as ``DeviceRow.image_message`` made it.
        phase: of the row.
        generation: of the row.

    Raises:
        StateError: something is missing or is not what it must be.
    """
    known = _checked(spec, _TYPES, "spec")
    files = _checked(image, {"lowers": list, "upper": (dict, type(None))}, "image")
    upper = files["upper"]
    if upper is not None:
        upper = _checked(upper, {"data": str, "index": str}, "upper")
    options, defaulted = _options(known["options"])
    row = DeviceRow(
        name=known["name"], uuid=known["uuid"], image=known["config"],
        lowers=tuple(str(path) for path in files["lowers"]), upper_data=upper and upper["data"],
        upper_index=upper and upper["index"], size_bytes=known["size_bytes"],
        provider=known["provider"], phase=phase, created=float(known["created"]),
        provider_ids=known["provider_ids"], generation=generation, options=options,
        release=known["release"],
    )  # fmt: skip
    return row, defaulted


def _options(found: dict[str, Any]) -> tuple[DeviceOptions, tuple[str, ...]]:
    defaults = asdict(DeviceOptions())
    taken = {
        name: value
        for name, value in found.items()
        if name in defaults and type(value) is type(defaults[name])
    }
    defaulted = tuple(name for name in OPTION_NAMES if name not in taken)
    return replace(DeviceOptions(), **taken), defaulted


def _checked(found: object, types: dict[str, type | tuple[type, ...]], what: str) -> dict[str, Any]:
    values = found if isinstance(found, dict) else {}
    for name, kind in types.items():
        if not isinstance(values.get(name), kind):
            raise StateError(f"its {what} has no usable {name}: {values.get(name)!r}")
    return values
