"""What state.db knows of a device, a worker, an operation and an event: frozen records."""

from __future__ import annotations

import re
from dataclasses import dataclass

from obdsup.errors import ConfigError
from obdsup.state.process import ProcessIdentity

__all__ = ["DeviceRow", "EventRow", "OperationRow", "Takeover", "WorkerRow", "check_name"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")


def check_name(name: object) -> str:
    """A device name that is safe as a file name, in configfs and on a command line.

    Raises:
        ConfigError: anything else.
    """
    if not isinstance(name, str) or not _NAME.match(name):
        raise ConfigError(
            f"device name {name!r} is not usable",
            hint="1 to 63 characters: letters, digits, '.', '_', '-', starting with no '.' or '-'",
        )
    return name


@dataclass(frozen=True, slots=True)
class Takeover:
    """The last change of server of a device that was not asked for."""

    at: float  # Unix time, seconds
    dur_ms: float  # from the supervisor's notice to the successor's answer
    recovered: int
    cause: str


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """One device. ``phase`` is a name of supervisor.device_machine.DeviceState."""

    name: str
    uuid: str
    image: str  # path of config.v1.json
    lowers: tuple[str, ...]
    upper_data: str | None
    upper_index: str | None
    size_bytes: int
    provider: str
    phase: str
    created: float
    provider_ids: dict[str, str | int]
    block_device: str = ""
    generation: int = 0
    worker_id: str = ""
    reason: str = ""
    takeovers: int = 0
    last_takeover: Takeover | None = None

    @property
    def is_writable(self) -> bool:
        return self.upper_data is not None

    def image_message(self) -> dict[str, object]:
        """The image as the worker protocol names it."""
        upper = None
        if self.upper_data is not None:
            upper = {"data": self.upper_data, "index": self.upper_index}
        return {"lowers": list(self.lowers), "upper": upper}


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """One worker process that was started, for its adoption."""

    id: str
    identity: ProcessIdentity
    socket: str


@dataclass(frozen=True, slots=True)
class OperationRow:
    """One operation under way; ``step`` is the last step that was begun."""

    device: str
    kind: str  # create, remove, handover
    step: str
    started: float


@dataclass(frozen=True, slots=True)
class EventRow:
    """One event; ``name`` is noun.verb, ``device`` "" when it concerns none."""

    seq: int
    ts: float
    name: str
    device: str
    fields: dict[str, object]
