"""Messages between supervisor and worker: one JSON object per SOCK_SEQPACKET packet, with fds.

A request is ``{"v": 1, "id": n, "op": name, ...}``, its answer
``{"v": 1, "id": n, "ok": true, ...}``
or ``{"v": 1, "id": n, "ok": false, "error": {...}}`` with the error in the form of
``ObdError.to_json``. A packet is at most ``MAX_PACKET_BYTES`` long and carries at most ``MAX_FDS``
file descriptors; who receives a packet owns its fds. The operations are listed in DESIGN.md.
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

__all__ = ["MAX_FDS", "MAX_PACKET_BYTES", "PROTOCOL_VERSION", "Packet", "receive", "send"]

PROTOCOL_VERSION = 1
MAX_PACKET_BYTES = 256 * 1024  # 255 lowers with long paths fit
MAX_FDS = 64


class Packet:
    """One received message. The receiver owns ``fds`` and closes them."""

    __slots__ = ("body", "fds")

    def __init__(self, body: dict[str, Any], fds: list[int] | None = None) -> None:
        self.body = body
        self.fds = fds if fds is not None else []

    def close_fds(self) -> None:
        """Closes whatever fds were not taken out of ``fds``."""
        while self.fds:
            os.close(self.fds.pop())


def send(sock: socket.socket, body: dict[str, Any], fds: list[int] | None = None) -> None:
    """Sends one packet; fds are duplicated by the kernel, the caller keeps its own.

    Raises:
        ControlError: the message does not fit.
        OSError: as of sendmsg (BrokenPipeError: the peer is gone).
    """
    data = json.dumps({"v": PROTOCOL_VERSION, **body}, separators=(",", ":")).encode()
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
        if body.get("v") != PROTOCOL_VERSION:
            raise ControlError(
                f"control protocol {body.get('v')!r}, this release speaks {PROTOCOL_VERSION}",
                hint="both sides must come from releases at most one version apart",
            )
    except (ValueError, ControlError) as error:
        packet.close_fds()
        if isinstance(error, ControlError):
            raise
        raise ControlError(f"control message is not JSON: {error}") from error
    packet.body = body
    return packet
