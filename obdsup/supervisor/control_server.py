"""The control socket RUN/obdsup.sock (obdsup/state/control.py): JSON lines, peers as there.

One thread per connection: an operation may block for seconds, the supervisor's loop never does. A
client that goes away in the middle changes nothing: the operation runs on to its end.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from obdsup.errors import AccessDenied, ConfigError, ControlError, ObdError
from obdsup.state import control
from obdsup.state.control import MAX_LINE_BYTES

__all__ = ["ControlServer", "Operation"]

# (request, progress) -> result
Operation = Callable[[dict[str, Any], Callable[[str], None]], object]
REQUEST_TIMEOUT_S = 30.0
BACKLOG = 64
PAUSED_S = 1.0  # until the thread that accepts has noticed
UNREAD = "a request that is not read yet"
REQUEST_MAX_BYTES = 64 * 1024
_PEERCRED = struct.Struct("3i")
log = logging.getLogger(__name__)


class ControlServer:
    """Listens from construction on; ``start`` begins to answer.

    Args:
        path: of the socket.
        operations: by name.
        fd: a socket that listens on the path already, now ours; None makes one.

    Raises:
        ConfigError: the socket can not be made.
    """

    def __init__(self, path: Path, operations: dict[str, Operation], fd: int | None = None) -> None:
        self.path = path
        self._operations = operations
        self._sock = _passed(path, fd) or _listen(path)
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._may_accept = threading.Event()
        self._may_accept.set()
        self._is_paused = threading.Event()
        self._active: Counter[str] = Counter()  # operations under way
        self._lock = threading.Lock()

    @property
    def fd(self) -> int:
        """The listening socket; stays ours."""
        return self._sock.fileno()

    def start(self) -> None:
        """Answers from now on."""
        threading.Thread(target=self._accept, name="control", daemon=True).start()

    def close(self) -> None:
        """Stops listening; operations under way run on."""
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()
        self._sock.close()

    def pause(self) -> None:
        """New connections wait in the backlog, where none is lost, until ``go_on``. Those that
        were accepted before are among ``active``."""
        self._may_accept.clear()
        os.eventfd_write(self._wake_fd, 1)
        self._is_paused.wait(PAUSED_S)

    def go_on(self) -> None:
        """Ends ``pause``."""
        self._may_accept.set()

    def active(self) -> set[str]:
        """Names of the operations whose answers are not sent yet."""
        with self._lock:
            return set(+self._active)

    def _accept(self) -> None:
        poller = select.poll()
        poller.register(self._sock, select.POLLIN)
        poller.register(self._wake_fd, select.POLLIN)
        while True:
            if not self._may_accept.is_set():
                self._is_paused.set()
                self._may_accept.wait()
                self._is_paused.clear()
            ready = [fd for fd, _ in poller.poll()]
            if self._wake_fd in ready:
                os.eventfd_read(self._wake_fd)
                continue
            try:
                connection, _ = self._sock.accept()
            except OSError:
                if self._sock.fileno() < 0:
                    return
                log.exception("control socket: accept failed")
                threading.Event().wait(0.1)  # out of fds: give them time to come back
                continue
            self._count(UNREAD, 1)
            threading.Thread(
                target=self._serve, args=(connection,), name="control-peer", daemon=True
            ).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(REQUEST_TIMEOUT_S)
            try:
                _check_peer(connection)
                request = _read_request(connection)
                operation = self._find(request)
                name = str(request["op"])
                self._count(name, 1)
            except ObdError as error:
                _send(connection, {"ok": False, "error": error.to_json()})
                return
            finally:
                self._count(UNREAD, -1)
            try:
                _send(connection, self._carry_out(operation, request, connection))
            finally:
                self._count(name, -1)

    def _count(self, name: str, change: int) -> None:
        with self._lock:
            self._active[name] += change

    def _find(self, request: dict[str, Any]) -> Operation:
        if not control.is_spoken(request.get("v")):
            raise ControlError(
                f"control protocol {request.get('v')!r}, this supervisor reads "
                f"{control.oldest_version()} to {control.CONTROL_VERSION}",
                hint="use the obdsup of the supervisor's release",
                code=control.UNKNOWN_VERSION,
                newest=control.CONTROL_VERSION,
            )
        operation = self._operations.get(str(request.get("op")))
        if operation is None:
            raise ControlError(
                f"unknown operation {request.get('op')!r}",
                hint=f"one of {', '.join(sorted(self._operations))}",
            )
        return operation

    def _carry_out(
        self, operation: Operation, request: dict[str, Any], connection: socket.socket
    ) -> dict[str, Any]:
        def progress(text: str) -> None:
            with contextlib.suppress(OSError):
                _send(connection, {"progress": text})

        try:
            return {"ok": True, "result": operation(request, progress)}
        except ObdError as error:
            return {"ok": False, "error": error.to_json()}
        except Exception as error:
            log.exception("operation %s failed", request.get("op"))
            return {"ok": False, "error": ObdError(f"bug in the supervisor: {error!r}").to_json()}


def _listen(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    path.unlink(missing_ok=True)  # we hold the supervisor's lock: nobody listens there
    try:
        mask = os.umask(0o177)
        try:
            sock.bind(str(path))
        finally:
            os.umask(mask)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise ConfigError(
            f"control socket {path}: {error}", hint="choose a shorter --run-dir"
        ) from error
    return sock


def _passed(path: Path, fd: int | None) -> socket.socket | None:
    """A socket from before a re-exec, if clients still find it at the path."""
    if fd is None:
        return None
    sock = socket.socket(fileno=fd)
    if path.is_socket() and sock.getsockname() == str(path):
        return sock
    sock.close()
    return None


def _check_peer(connection: socket.socket) -> None:
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size)
    _, uid, _ = _PEERCRED.unpack(raw)
    if uid not in (0, os.geteuid()):
        raise AccessDenied(f"uid {uid} may not control this supervisor", hint="run as root")


def _read_request(connection: socket.socket) -> dict[str, Any]:
    raw = b""
    while not raw.endswith(b"\n"):
        piece = connection.recv(4096)
        raw += piece
        if not piece or len(raw) > REQUEST_MAX_BYTES or b"\n" in piece[:-1]:
            raise ControlError("a request is one line of JSON, at most 64 KiB long")
    try:
        request = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ControlError(f"request is not JSON: {error}") from error
    if not isinstance(request, dict):
        raise ControlError("request is not a JSON object")
    return request


def _send(connection: socket.socket, message: dict[str, Any]) -> None:
    line = json.dumps(message, default=str).encode() + b"\n"
    if len(line) > MAX_LINE_BYTES:
        error = ControlError(f"answer of {len(line)} bytes is too long", hint="ask for less")
        line = json.dumps({"ok": False, "error": error.to_json()}).encode() + b"\n"
    connection.sendall(line)
