"""The errors of obdsup: one class per cause, fields first, one exit code per class.

Every package may import this module; it imports nothing. Messages are made from the fields in
``__str__`` and are for people: programs look at the class, the fields or the exit code. A message
names the thing, the place (file, offset), what was expected and found, and the next step.
``IllegalTransition`` and failed assertions are bugs and deliberately not ``ObdError``.
"""

from __future__ import annotations

TYPE_CHECKING = False  # importing typing costs each worker 0.6 MiB of private memory
if TYPE_CHECKING:
    from typing import ClassVar

__all__ = [
    "AccessDenied",
    "AlreadyServed",
    "ConfigError",
    "ControlError",
    "DeviceNotFound",
    "FormatError",
    "HandoffError",
    "NativeError",
    "ObdError",
    "ProviderError",
    "RingError",
    "StateError",
    "WorkerLost",
    "error_from_json",
]


class ObdError(Exception):
    """Root of all errors an operator can act on.

    Args:
        what: one sentence that names the thing and the place.
        hint: the next step, or "" when there is none better than the message.
        fields: what a program needs to act on it; JSON values only.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, hint: str = "", **fields: object) -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint
        self.fields = fields

    def __str__(self) -> str:
        return f"{self.what} ({self.hint})" if self.hint else self.what

    def to_json(self) -> dict[str, object]:
        """The error as it travels over a control socket and in ``--json`` output."""
        return {
            "class": type(self).__name__,
            "exit_code": self.exit_code,
            "message": self.what,
            "hint": self.hint,
            "fields": self.fields,
        }


class ConfigError(ObdError):
    """A configuration file, option or argument is wrong."""

    exit_code = 10


class FormatError(ObdError):
    """A file is not what its format says: names path, byte offset, expected and found value."""

    exit_code = 11

    def __init__(
        self,
        path: str,
        offset: int,
        expected: object,
        got: object,
        *,
        field: str = "",
        hint: str = "",
        **fields: object,
    ) -> None:
        subject = f"{field}: " if field else ""
        super().__init__(
            f"{path} at byte {offset}: {subject}expected {expected}, found {got}",
            hint=hint,
            path=path,
            offset=offset,
            expected=str(expected),
            got=str(got),
            field=field,
            **fields,
        )


class StateError(ObdError):
    """Persistent state is corrupt, too new, of another boot, or of a stale generation."""

    exit_code = 12


class RingError(ObdError):
    """A command ring is broken or not usable."""

    exit_code = 13


class NativeError(ObdError):
    """The native core failed: fields ``op`` and ``code`` (name of enum obd_err)."""

    exit_code = 14


class WorkerLost(ObdError):
    """A worker died or did not answer in time."""

    exit_code = 15


class HandoffError(ObdError):
    """A hand-over did not happen; the device is served by whom it was served before."""

    exit_code = 16


class ProviderError(ObdError):
    """A ring provider is missing or refused: configfs, uio, FUSE, loop, ringd."""

    exit_code = 17


class ControlError(ObdError):
    """The supervisor can not be reached or spoke another protocol."""

    exit_code = 18


class DeviceNotFound(ObdError):
    """No device of that name."""

    exit_code = 19


class AlreadyServed(ObdError):
    """Somebody else holds the lock: a second supervisor, worker or writer."""

    exit_code = 20


class AccessDenied(ObdError):
    """The peer of a control socket may not do this."""

    exit_code = 21


_BY_NAME: dict[str, type[ObdError]] = {
    cls.__name__: cls
    for cls in (
        ConfigError, StateError, RingError, NativeError, WorkerLost, HandoffError,
        ProviderError, ControlError, DeviceNotFound, AlreadyServed, AccessDenied,
    )
}  # fmt: skip


def error_from_json(data: dict[str, object]) -> ObdError:
    """Rebuilds an error that travelled as ``to_json()``; an unknown class becomes ``ObdError``."""
    name = str(data.get("class", ""))
    message, hint = str(data.get("message", "")), str(data.get("hint", ""))
    raw = data.get("fields")
    fields = {str(k): v for k, v in raw.items()} if isinstance(raw, dict) else {}
    if name == "FormatError":
        error = FormatError.__new__(FormatError)
        ObdError.__init__(error, message, hint=hint, **fields)
        return error
    return _BY_NAME.get(name, ObdError)(message, hint=hint, **fields)
