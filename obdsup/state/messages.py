"""Messages between supervisor and worker: one JSON object per SOCK_SEQPACKET packet, with fds.

A request is ``{"v": version, "id": n, "op": name, ...}``, its answer
``{"v": version, "id": n, "ok": true, ...}``
or ``{"v": version, "id": n, "ok": false, "error": {...}}`` with the error in the form of
``ObdError.to_json``. A packet is at most ``MAX_PACKET_BYTES`` long and carries at most ``MAX_FDS``
file descriptors; who receives a packet owns its fds. The operations are listed in DESIGN.md.

A release speaks ``PROTOCOL_VERSION`` and the version before. ``hello`` has the form of version 1
for ever, as have its answer and every refusal of a version: both sides announce in it what they
speak (``announcement``), and use the newest that both do from then on (``agree``).
"""

from __future__ import annotations

import array
import json
import os
import socket

from obdsup.errors import ControlError

TYPE_CHECKING = False  # typing and dataclasses would cost each worker 2 MiB of private memory
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "HELLO_VERSION", "MAX_FDS", "MAX_PACKET_BYTES", "PROTOCOL_VERSION", "UNKNOWN_VERSION", "Packet",
    "agree", "announcement", "oldest_version", "receive", "send",
]  # fmt: skip

PROTOCOL_VERSION = 2
HELLO_VERSION = 1  # never changes
UNKNOWN_VERSION = "PROTOCOL_VERSION"  # field ``code`` of the ControlError that refuses a version
MAX_PACKET_BYTES = 256 * 1024  # 255 lowers with long paths fit
MAX_FDS = 64


def oldest_version() -> int:
    """The oldest version this release speaks."""
    return max(PROTOCOL_VERSION - 1, HELLO_VERSION)


def announcement() -> dict[str, object]:
    """The fields of a hello, and of its answer, that say which versions this release speaks."""
    return {"protocol": PROTOCOL_VERSION, "oldest_protocol": oldest_version()}


def agree(body: dict[str, Any]) -> int:
    """The version to speak with whoever sent this hello, or this answer to one: the newest that
    both speak. A release of before announcements speaks one version.

    Raises:
        ControlError: there is none; field ``code`` is UNKNOWN_VERSION.
    """
    newest = body.get("protocol", HELLO_VERSION)
    oldest = body.get("oldest_protocol", newest)
    if type(newest) is int and type(oldest) is int:
        version: int = min(newest, PROTOCOL_VERSION)
        if version >= max(oldest, oldest_version()):
            return version
    raise _unknown(f"{oldest!r} to {newest!r}" if oldest != newest else repr(newest))


def _unknown(theirs: str) -> ControlError:
    return ControlError(
        f"control protocol {theirs}, this release speaks {oldest_version()} to {PROTOCOL_VERSION}",
        hint="both sides must come from releases at most one version apart",
        code=UNKNOWN_VERSION,
    )


class Packet:
    """One received message. The receiver owns ``fds`` and closes them."""

    __slots__ = ("body", "fds")

    @property
    def version(self) -> int:
        """Of the protocol, as it says."""
        return int(self.body.get("v", HELLO_VERSION))

    def __init__(self, body: dict[str, Any], fds: list[int] | None = None) -> None:
        self.body = body
        self.fds = fds if fds is not None else []

    def close_fds(self) -> None:
        """Closes whatever fds were not taken out of ``fds``."""
        while self.fds:
            os.close(self.fds.pop())


def send(
    sock: socket.socket, body: dict[str, Any], fds: list[int] | None = None, version: int = 0
) -> None:
    """Sends one packet; fds are duplicated by the kernel, the caller keeps its own.

    Args:
        sock: connected.
        body: without ``v``.
        fds: to go with it.
        version: of the protocol; 0: the newest.

    Raises:
        ControlError: the message does not fit.
        OSError: as of sendmsg (BrokenPipeError: the peer is gone).
    """
    data = json.dumps({"v": version or PROTOCOL_VERSION, **body}, separators=(",", ":")).encode()
    if len(data) > MAX_PACKET_BYTES:
        raise ControlError(f"message of {len(data)} bytes exceeds {MAX_PACKET_BYTES}")
    ancillary = []
    if fds:
        ancillary.append((socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds)))
    sock.sendmsg([data], ancillary, socket.MSG_NOSIGNAL)


def receive(sock: socket.socket) -> Packet | None:
    """Receives one packet, or None when the peer closed the connection.

    Raises:
        ControlError: truncated, not JSON, not an object, or of an unknown protocol version; fds
            that came with it are closed.
    """
    space = socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)
    data, ancillary, flags, _ = sock.recvmsg(MAX_PACKET_BYTES, space, socket.MSG_CMSG_CLOEXEC)
    packet = Packet({})
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers = array.array("i")
            numbers.frombytes(payload[: len(payload) - len(payload) % numbers.itemsize])
            packet.fds.extend(numbers)
    if not data:
        packet.close_fds()
        return None
    try:
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise ControlError("control message was cut: too long or too many fds")
        body = json.loads(data)
        if not isinstance(body, dict):
            raise ControlError("control message is not a JSON object")
        if not _is_spoken(body):
            raise _unknown(repr(body.get("v")))
    except (ValueError, ControlError) as error:
        packet.close_fds()
        if isinstance(error, ControlError):
            raise
        raise ControlError(f"control message is not JSON: {error}") from error
    packet.body = body
    return packet


def _is_spoken(body: dict[str, Any]) -> bool:
    version = body.get("v")
    if type(version) is not int:
        return False
    is_hello = body.get("op", "hello") == "hello"  # or an answer, perhaps to one
    return oldest_version() <= version <= PROTOCOL_VERSION or (
        version == HELLO_VERSION and is_hello
    )
