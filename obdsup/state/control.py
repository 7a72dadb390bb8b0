"""The control protocol of the supervisor, client side: JSON lines over RUN/obdsup.sock.

A request is one line ``{"v": version, "op": name, ...}``; the supervisor answers zero or more
``{"progress": text}`` lines, then one ``{"ok": true, "result": ...}`` or
``{"ok": false, "error": {...}}`` with the error in the form of ``ObdError.to_json``. A line is at
most ``MAX_LINE_BYTES`` long. The peer must be root or of the supervisor's own user.

A supervisor reads requests of its version and of the one before, so that a command line of the
release before goes on working. One of another version is refused with an error whose ``code`` is
UNKNOWN_VERSION and that says which is the ``newest`` it reads; a client asks again in that version
if it is its own or the one before: the supervisor may be of the release before.
"""

from __future__ import annotations

import contextlib
import json
import socket

from obdsup.errors import ControlError, error_from_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = [
    "CONTROL_VERSION", "MAX_LINE_BYTES", "SOCKET_NAME", "UNKNOWN_VERSION", "ControlClient",
    "is_spoken", "oldest_version",
]  # fmt: skip

CONTROL_VERSION = 1
UNKNOWN_VERSION = "CONTROL_VERSION"  # field ``code`` of the error that refuses a version
MAX_LINE_BYTES = 4 * 1024 * 1024
SOCKET_NAME = "obdsup.sock"


def oldest_version() -> int:
    """The oldest version this release reads and can ask in."""
    return max(CONTROL_VERSION - 1, 1)


def is_spoken(version: object) -> bool:
    """Whether this release reads requests of that version, and can ask in it."""
    return type(version) is int and oldest_version() <= version <= CONTROL_VERSION


class ControlClient:
    """Asks the supervisor that listens on ``path``; one connection per call, so nothing to close.

    Args:
        path: of the supervisor's socket.
        timeout_s: longest silence waited for; None waits for ever (a create may take long).
    """

    def __init__(self, path: str, timeout_s: float | None = None) -> None:
        self._path = path
        self._timeout_s = timeout_s

    def call(
        self, op: str, *, on_progress: Callable[[str], None] | None = None, **fields: object
    ) -> Any:
        """Carries out one operation and returns its result.

        Raises:
            ControlError: nobody listens, no answer, or an answer that is not the protocol's.
            ObdError: what the supervisor answered, as the class it was there.
        """
        try:
            return self._ask({"v": CONTROL_VERSION, "op": op, **fields}, on_progress)
        except ControlError as error:
            newest = error.fields.get("newest")
            is_older = error.fields.get("code") == UNKNOWN_VERSION and newest != CONTROL_VERSION
            if not is_older or not is_spoken(newest):
                raise
        return self._ask({"v": newest, "op": op, **fields}, on_progress)

    def _ask(self, request: dict[str, object], on_progress: Callable[[str], None] | None) -> Any:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
                sock.settimeout(self._timeout_s)
                sock.connect(self._path)
                # Who is refused by the peer's uid is told so before anything is read from it.
                with contextlib.suppress(BrokenPipeError):
                    sock.sendall(json.dumps(request).encode() + b"\n")
                with sock.makefile("rb") as lines:
                    return self._read_answer(lines, on_progress)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise ControlError(
                f"no supervisor answers at {self._path}",
                hint="start one with `obdsup supervisor`, or give its --run-dir",
            ) from error
        except TimeoutError as error:
            raise ControlError(
                f"the supervisor at {self._path} did not answer in {self._timeout_s} s",
                hint="it may be busy or stopped: see its log",
            ) from error
        except PermissionError as error:
            raise ControlError(
                f"may not connect to {self._path}: {error.strerror}", hint="run as root"
            ) from error
        except OSError as error:
            raise ControlError(f"connection to {self._path} broke: {error.strerror}") from error

    def _read_answer(self, lines: Any, on_progress: Callable[[str], None] | None) -> Any:
        while True:
            line = lines.readline(MAX_LINE_BYTES)
            if not line.endswith(b"\n"):
                raise ControlError(
                    f"the supervisor at {self._path} closed the connection without an answer",
                    hint="the operation may still complete: see `obdsup status`",
                )
            try:
                answer = json.loads(line)
            except ValueError as error:
                raise ControlError(f"answer from {self._path} is not JSON: {error}") from error
            if not isinstance(answer, dict):
                raise ControlError(f"answer from {self._path} is not a JSON object")
            if "progress" in answer:
                if on_progress is not None:
                    on_progress(str(answer["progress"]))
            elif answer.get("ok") is True:
                return answer.get("result")
            elif isinstance(answer.get("error"), dict):
                raise error_from_json(answer["error"])
            else:
                raise ControlError(f"answer from {self._path} is neither a result nor an error")
