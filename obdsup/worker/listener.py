"""The worker's control socket: who may connect, and one connection's packets."""

from __future__ import annotations

import os
import socket
import struct

from obdsup.errors import AccessDenied, AlreadyServed, ConfigError, ObdError
from obdsup.state import messages
from obdsup.worker import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Connection", "accept", "listen"]

BACKLOG = 16
_PEERCRED = struct.Struct("3i")


def listen(path: str) -> socket.socket:
    """Listens on ``path`` with mode 0600; a socket file nobody listens on is replaced.

    Raises:
        AlreadyServed: a living process listens there.
        ConfigError: the path can not be a socket.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        _refuse_if_alive(path)
        previous = os.umask(0o177)  # from the first moment on nobody else may connect
        try:
            sock.bind(path)
        finally:
            os.umask(previous)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise ConfigError(f"control socket {path}: {error.strerror or error}") from error
    except ObdError:
        sock.close()
        raise
    return sock


def _refuse_if_alive(path: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        try:
            probe.connect(path)
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise AlreadyServed(f"another worker listens on {path}", hint="each worker has its own --id")


class Connection:
    """One peer. While ``is_busy`` its next request waits in the socket: answers stay in order."""

    __slots__ = ("_version", "is_busy", "is_closed", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.is_busy = False
        self.is_closed = False
        self._version = messages.HELLO_VERSION  # of the request that is to be answered

    def receive(self) -> messages.Packet | None:
        """The next packet, or None when the peer is gone. Raises ControlError for nonsense, and
        for a version that this release does not speak."""
        self._version = messages.HELLO_VERSION
        try:
            packet = messages.receive(self.sock)
        except OSError:
            return None
        if packet is not None:
            self._version = packet.version
        return packet

    def answer(self, number: object, body: dict[str, Any], fds: list[int] | None = None) -> None:
        """Answers ok. A peer that is gone or does not read loses its connection, nothing else."""
        self._send({"id": number, "ok": True, **body}, fds)

    def refuse(self, number: object, error: ObdError) -> None:
        """Answers with an error."""
        self._send({"id": number, "ok": False, "error": error.to_json()}, None)

    def _send(self, body: dict[str, Any], fds: list[int] | None) -> None:
        if self.is_closed:
            return
        try:
            messages.send(self.sock, body, fds, self._version)
        except OSError as error:
            log.event("peer.lost", reason=error.strerror)
            self.is_closed = True


def accept(listener: socket.socket) -> Connection | None:
    """Takes a connection of root or of our own user; others get AccessDenied and are closed."""
    try:
        sock, _ = listener.accept()
    except OSError:
        return None
    sock.setblocking(False)
    pid, uid, _ = _PEERCRED.unpack(
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size)
    )
    connection = Connection(sock)
    if uid not in (0, os.geteuid()):
        log.event("peer.refused", log.WARNING, pid=pid, uid=uid)
        connection.refuse(None, AccessDenied(f"uid {uid} may not control this worker"))
        sock.close()
        return None
    return connection
