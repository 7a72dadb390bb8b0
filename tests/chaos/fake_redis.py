"""A redis small enough to lie on demand: GET, SET and PING over a unix socket."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path


class FakeRedis:
    """Serves until ``close``; ``fault`` chooses how it misbehaves from then on.

    ``lose``: GET finds nothing. ``rewind``: GET answers the value before the last one.
    ``misconf``: SET is refused. Otherwise it behaves.
    """

    def __init__(self, path: Path) -> None:
        self.fault = ""
        self.set_cnt = 0
        self._values: dict[bytes, list[bytes]] = {}
        self._lock = threading.Lock()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        for connection in self._connections:
            with connection, contextlib.suppress(OSError):  # the client may have gone before
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join()
        self._listener.close()

    def __enter__(self) -> FakeRedis:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._connections.append(connection.dup())
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as lines:
            while head := lines.readline():
                arguments = []
                for _ in range(int(head[1:])):
                    length = int(lines.readline()[1:])
                    arguments.append(lines.read(length + 2)[:-2])
                connection.sendall(self._answer(arguments))

    def _answer(self, arguments: list[bytes]) -> bytes:
        name = arguments[0].upper()
        with self._lock:
            if name == b"SET" and self.fault == "misconf":
                return b"-MISCONF Errors writing to the AOF file\r\n"
            if name == b"SET":
                self._values.setdefault(arguments[1], []).append(arguments[2])
                self.set_cnt += 1
                return b"+OK\r\n"
            if name == b"GET":
                versions = self._values.get(arguments[1], [])
                shown = versions[:-1] if self.fault == "rewind" else versions
                if not shown or self.fault == "lose":
                    return b"$-1\r\n"
                return b"$%d\r\n%s\r\n" % (len(shown[-1]), shown[-1])
        return b"+PONG\r\n" if name == b"PING" else b"+OK\r\n"
