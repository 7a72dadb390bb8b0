"""Asks obdsup-ringd, which plays the kernel here, when no command completed."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from chaos.rig.problem import RigError

__all__ = ["RingGaps"]

_ANSWER_BYTES = 65536


class RingGaps:
    """The completion gaps of one ring; reading them empties ringd's list.

    Args:
        socket_path: of the ringd that serves the device's ring.
    """

    def __init__(self, socket_path: Path) -> None:
        self._path = socket_path

    def take(self) -> list[tuple[int, int]]:
        """Gaps of a millisecond and more since last asked: [start, end) CLOCK_MONOTONIC ns.

        Raises:
            RigError: ringd answers something else.
        """
        lines = self._ask("gaps").splitlines()
        if not lines or not lines[0].startswith("ok"):
            raise RigError(f"ringd at {self._path} gave no gaps: {lines[:1]}")
        return [(int(start), int(end)) for start, end in (line.split() for line in lines[1:])]

    def _ask(self, request: str) -> str:
        # by way of the directory: a socket address holds 107 bytes only
        directory = os.open(self._path.parent, os.O_PATH | os.O_CLOEXEC)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as link:
                link.settimeout(10)
                link.connect(f"/proc/self/fd/{directory}/{self._path.name}")
                link.send(request.encode())
                return link.recv(_ANSWER_BYTES).decode()
        finally:
            os.close(directory)
