"""Asks the control thread of one worker whether it is there, without ever waiting for it."""

from __future__ import annotations

import contextlib
import json
import socket

from obdsup.state import messages

__all__ = ["ControlPing"]

# A hello about no device: the answer carries no fds. Any answer will do, also a refusal.
_QUESTION = json.dumps(
    {"v": messages.HELLO_VERSION, "id": 0, "op": "hello", "device": "-", **messages.announcement()}
).encode()
_ANSWER_BYTES = 65536


class ControlPing:
    """Questions to the worker that listens on ``path``, one at a time, on a connection of their
    own. One that can not be reached counts as one that does not answer.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._sock: socket.socket | None = None
        self._is_asked = False  # the question is on its way
        self.is_waited_for = False

    def ask(self) -> None:
        """Asks, unless an answer is due still."""
        self.is_waited_for = True
        if not self._is_asked:
            self._send()

    def look(self) -> None:
        """Takes the answer if there is one; asks again where the connection broke."""
        if not self.is_waited_for:
            return
        if not self._is_asked:
            self._send()
            return
        assert self._sock is not None
        try:
            answer = self._sock.recv(_ANSWER_BYTES)
        except BlockingIOError:
            return
        except OSError:
            answer = b""
        self._is_asked = False
        if answer:
            self.is_waited_for = False
        else:
            self.close()

    def close(self) -> None:
        """Closes the connection."""
        self._is_asked = False
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _send(self) -> None:
        with contextlib.suppress(OSError):  # a queue that is full is a worker that does not read
            if self._sock is None:
                self._sock = self._connect()
            self._sock.send(_QUESTION, socket.MSG_NOSIGNAL)
            self._is_asked = True
            return
        self.close()

    def _connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            sock.connect(self._path)
        except OSError:
            sock.close()
            raise
        return sock
