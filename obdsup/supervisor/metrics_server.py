"""``--metrics``: HTTP on a unix socket or a loopback port, for Prometheus. Off unless asked for.

One thread accepts and answers, one request after the other. prometheus_client is imported by the
first scrape, in this thread, so that a supervisor nobody scrapes does not carry it.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import socket
import threading
from pathlib import Path

from obdsup.errors import ConfigError
from obdsup.supervisor.overview import Overview

__all__ = ["MetricsServer", "parse_address"]

REQUEST_TIMEOUT_S = 5.0
REQUEST_MAX_BYTES = 8192
BACKLOG = 8
HEAD_END = b"\r\n\r\n"
log = logging.getLogger(__name__)


def parse_address(text: str, run_dir: Path) -> Path | tuple[str, int]:
    """Where to listen: ``unix``, ``unix:PATH``, ``127.0.0.1:PORT`` or ``[::1]:PORT``.

    Raises:
        ConfigError: it is none of these, or not a loopback address.
    """
    if text == "unix":
        return run_dir / "metrics.sock"
    if text.startswith("unix:"):
        path = Path(text.removeprefix("unix:"))
        if not path.is_absolute():
            raise ConfigError(f"metrics: {path} is not an absolute path", hint="unix:/run/NAME")
        return path
    host, _, port = text.rpartition(":")
    hint = "unix, unix:PATH, 127.0.0.1:PORT or [::1]:PORT"
    try:
        address = ipaddress.ip_address(host.strip("[]"))
        number = int(port)
    except ValueError:
        raise ConfigError(f"metrics address {text!r} is not usable", hint=hint) from None
    if not address.is_loopback:
        raise ConfigError(
            f"metrics address {address} is not a loopback address",
            hint=f"metrics are for this host only: {hint}; a proxy may pass them on",
        )
    if not 0 < number < 65536:
        raise ConfigError(f"metrics port {number} is not 1 to 65535", hint=hint)
    return str(address), number


class MetricsServer:
    """Listens from construction on, so that a bad address ends the start.

    Args:
        text: what ``--metrics`` says; "" listens nowhere.

    Raises:
        ConfigError: a bad address, or one that can not be had.
    """

    def __init__(self, text: str, run_dir: Path, overview: Overview) -> None:
        self._overview = overview
        self._path: Path | None = None
        self._socket: socket.socket | None = None
        if text:
            self._listen(parse_address(text, run_dir))

    def start(self) -> None:
        """Answers from now on."""
        if self._socket is not None:
            threading.Thread(
                target=self._run, args=(self._socket,), name="metrics", daemon=True
            ).start()

    def close(self) -> None:
        """Stops listening."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
        if self._socket is not None:
            self._socket.close()

    def _listen(self, address: Path | tuple[str, int]) -> None:
        try:
            if isinstance(address, Path):
                self._socket = _listen_at_path(address)
                self._path = address
            else:
                family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
                self._socket = socket.create_server(address, family=family, backlog=BACKLOG)
        except OSError as error:
            raise ConfigError(
                f"metrics can not be had at {address}: {error.strerror or error}",
                hint="choose another address with --metrics",
            ) from error

    def _run(self, listening: socket.socket) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                if listening.fileno() < 0:
                    return
                log.exception("metrics: accept failed")
                threading.Event().wait(0.1)  # out of fds: give them time to come back
                continue
            with connection, contextlib.suppress(OSError):
                connection.settimeout(REQUEST_TIMEOUT_S)
                connection.sendall(self._answer(_read_head(connection)))

    def _answer(self, head: bytes) -> bytes:
        words = head.split(b"\r\n", 1)[0].split()
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            return _response("400 Bad Request", b"this is HTTP\n")
        if words[0] != b"GET":
            return _response("405 Method Not Allowed", b"only GET\n")
        if words[1].split(b"?")[0] not in (b"/", b"/metrics"):
            return _response("404 Not Found", b"metrics are at /metrics\n")
        try:
            from obdsup.supervisor import metrics

            return _response("200 OK", metrics.exposition(self._overview), metrics.CONTENT_TYPE)
        except Exception:
            log.exception("metrics could not be made")
            return _response("500 Internal Server Error", b"see the supervisor's log\n")


def _read_head(connection: socket.socket) -> bytes:
    raw = b""
    while HEAD_END not in raw and len(raw) < REQUEST_MAX_BYTES:
        piece = connection.recv(4096)
        if not piece:
            break
        raw += piece
    return raw


def _response(status: str, body: bytes, kind: str = "text/plain; charset=utf-8") -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + body


def _listen_at_path(path: Path) -> socket.socket:
    _remove_dead(path)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        made.bind(str(path))
        made.listen(BACKLOG)
    except OSError:
        made.close()
        raise
    finally:
        os.umask(mask)
    return made


def _remove_dead(path: Path) -> None:
    """A socket that nobody listens on; one that answers is another's."""
    if not path.is_socket():
        return  # what is there is not ours to remove: bind says that it is in use
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
