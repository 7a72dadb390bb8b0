"""The supervisor's side of the worker control protocol (obdsup/state/DESIGN.md)."""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

from obdsup.errors import ControlError, WorkerLost, error_from_json
from obdsup.state import messages
from obdsup.state.messages import Packet

__all__ = ["WorkerLink", "in_form_of"]

CALLS_AT_ONCE = 12
ASIDES_AT_ONCE = 16
_FULL_QUEUE_S = 0.002
_PEERCRED = struct.Struct("3i")


def in_form_of(version: int, op: str, fields: dict[str, object]) -> dict[str, object]:
    """The fields of a request, given in the newest form, in the form of an older version."""
    options = fields.get("options")
    if version == 1 and op == "serve" and isinstance(options, dict):
        others = {name: value for name, value in fields.items() if name != "options"}
        return {**others, **options}
    return fields


class WorkerLink:
    """Talks to the worker that listens on ``path``. One connection is kept for ``call``.

    ``call`` is for what must not wait behind slow work: hello, serve, drain, stop; while the kept
    connection is busy it uses another. ``call_aside`` always uses one of its own, for prewarm and
    stats. A worker takes a bounded number of connections: so many at once are used of each kind.

    Requests have the form of the newest protocol; a worker that speaks the one before gets them in
    that form. Which it speaks is learned from the first hello, which is asked if nobody did.

    Args:
        worker_id: for messages.
        path: of its socket.
        version: the one agreed on before, of the same process; 0: not known yet.
    """

    def __init__(self, worker_id: str, path: str, version: int = 0) -> None:
        self.worker_id = worker_id
        self.path = path
        self.version = version
        self._lock = threading.Lock()
        self._calls = threading.BoundedSemaphore(CALLS_AT_ONCE)
        self._asides = threading.BoundedSemaphore(ASIDES_AT_ONCE)
        self._sock: socket.socket | None = None
        self._numbers = itertools.count(1)

    def call(
        self, op: str, timeout_s: float, fds: list[int] | None = None, **fields: object
    ) -> Packet:
        """Sends one request and returns the answer; the caller owns the answer's fds.

        Raises:
            WorkerLost: nobody listens, the connection broke, or no answer in time (field
                ``is_timeout``); whether the request was carried out is then unknown.
            ControlError: field ``code`` is UNKNOWN_VERSION: it speaks no version of ours.
            ObdError: what the worker answered.
        """
        if not self._lock.acquire(blocking=False):
            with self._slot(self._calls, op, timeout_s), self._connect(timeout_s) as sock:
                return self._exchange(sock, op, timeout_s, fds, fields)
        try:
            if self._sock is None:
                self._sock = self._connect(timeout_s)
            try:
                return self._exchange(self._sock, op, timeout_s, fds, fields)
            except (WorkerLost, ControlError):
                self._close()
                raise
        finally:
            self._lock.release()

    def call_aside(self, op: str, timeout_s: float, **fields: object) -> Packet:
        """As ``call``, on a connection that is closed afterwards."""
        with self._slot(self._asides, op, timeout_s), self._connect(timeout_s) as sock:
            return self._exchange(sock, op, timeout_s, None, fields)

    @contextlib.contextmanager
    def _slot(self, slots: threading.BoundedSemaphore, op: str, timeout_s: float) -> Iterator[None]:
        if not slots.acquire(timeout=timeout_s):
            raise self._lost(f"is busy: no connection for {op} in {timeout_s} s", is_timeout=True)
        try:
            yield
        finally:
            slots.release()

    def peer_pid(self, timeout_s: float) -> int:
        """The pid of the process that listens, from the kernel.

        Raises:
            WorkerLost: nobody listens.
        """
        with self._connect(timeout_s) as sock:
            raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size)
            return int(_PEERCRED.unpack(raw)[0])

    def close(self) -> None:
        """Closes the kept connection, if any."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _connect(self, timeout_s: float) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.settimeout(timeout_s)
        deadline = time.monotonic() + timeout_s
        try:
            while not self._has_connected(sock):
                if time.monotonic() > deadline:
                    raise TimeoutError("its queue of connections stays full")
                time.sleep(_FULL_QUEUE_S)
        except OSError as error:
            sock.close()
            raise self._lost(
                f"can not be reached: {error}", is_timeout=isinstance(error, TimeoutError)
            ) from error
        return sock

    def _has_connected(self, sock: socket.socket) -> bool:
        """False: the queue of the listener is full, which a socket with a timeout does not wait
        for. A crowd of devices on one worker is no reason to call it lost.
        """
        try:
            sock.connect(self.path)
        except BlockingIOError:
            return False
        return True

    def _exchange(
        self,
        sock: socket.socket,
        op: str,
        timeout_s: float,
        fds: list[int] | None,
        fields: dict[str, object],
    ) -> Packet:
        if op == "hello":
            return self._hello(sock, timeout_s, fields)
        if not self.version:
            self._hello(sock, timeout_s, {"device": "-"})  # about no device: it carries no fds
        fields = in_form_of(self.version, op, fields)
        return self._ask(sock, op, timeout_s, fds, fields, self.version)

    def _hello(self, sock: socket.socket, timeout_s: float, fields: dict[str, object]) -> Packet:
        """Announces our versions; what is spoken from now on is agreed when it returns."""
        announced = {**messages.announcement(), **fields}
        packet = self._ask(sock, "hello", timeout_s, None, announced, messages.HELLO_VERSION)
        try:
            self.version = messages.agree(packet.body)
        except ControlError:
            packet.close_fds()
            raise
        return packet

    def _ask(
        self,
        sock: socket.socket,
        op: str,
        timeout_s: float,
        fds: list[int] | None,
        fields: dict[str, object],
        version: int,
    ) -> Packet:
        sock.settimeout(timeout_s)
        number = next(self._numbers)
        try:
            messages.send(sock, {"id": number, "op": op, **fields}, fds, version)
            packet = messages.receive(sock)
        except TimeoutError as error:
            raise self._lost(f"did not answer {op} in {timeout_s} s", is_timeout=True) from error
        except OSError as error:
            raise self._lost(f"broke the connection during {op}: {error}") from error
        if packet is None:
            raise self._lost(f"closed the connection during {op}")
        body: dict[str, Any] = packet.body
        if body.get("id") != number:
            packet.close_fds()
            raise ControlError(f"worker {self.worker_id} answered {body.get('id')}, not {number}")
        if body.get("ok") is True:
            return packet
        packet.close_fds()
        error_body = body.get("error")
        raise error_from_json(error_body if isinstance(error_body, dict) else {})

    def _lost(self, what: str, *, is_timeout: bool = False) -> WorkerLost:
        return WorkerLost(
            f"worker {self.worker_id} {what}", worker=self.worker_id, is_timeout=is_timeout
        )
