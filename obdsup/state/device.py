"""What state.db knows of a device, a worker, an operation and an event: frozen records."""

from __future__ import annotations

import re
from dataclasses import dataclass

from obdsup.errors import ConfigError
from obdsup.state.process import ProcessIdentity

__all__ = [
    "DeviceOptions",
    "DeviceRow",
    "EventRow",
    "OperationRow",
    "RolloutRow",
    "Takeover",
    "WorkerRow",
    "check_name",
]

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
class DeviceOptions:
    """What was chosen for a device when it was made; the defaults are the supervisor's own."""

    is_restored: bool = False  # made again after a reboot of the host
    devices_per_worker: int = 1  # how many devices its worker may serve
    memory_max_bytes: int = 0  # of its worker; 0: no limit
    is_foreign: bool = False  # somebody else made it in configfs: served, not removed by us


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
    options: DeviceOptions = DeviceOptions()
    release: str = ""  # path of the release its workers come from; "": the supervisor's own
    quarantine: str = ""  # why it is not tried any more; "": it is

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
class RolloutRow:
    """The last or present rollout. ``state`` is a name of supervisor.rollout_machine."""

    target: str  # full path of the release that is rolled out
    origin: str  # full path of the one that new devices came from
    state: str
    options: dict[str, float]  # canary, batch, watch_s
    moved: tuple[str, ...]  # devices that were moved, in order
    reason: str
    started: float
    changed: float


@dataclass(frozen=True, slots=True)
class EventRow:
    """One event; ``name`` is noun.verb, ``device`` "" when it concerns none."""

    seq: int
    ts: float
    name: str
    device: str
    fields: dict[str, object]
