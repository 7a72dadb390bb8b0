"""Log records as entries of the systemd journal, with fields: its native protocol.

One datagram per record. An event gives ``OBDSUP_EVENT``, ``OBDSUP_DEVICE`` and one
``OBDSUP_NAME`` per field, so that ``journalctl OBDSUP_DEVICE=web OBDSUP_EVENT=takeover.done``
finds it. Written here, in 80 lines, because python-systemd has to be built against libsystemd.

Used instead of stderr, not beside it, when stderr is the journal's own stream: every line is
there once. Called by the logging thread only, so a journal that is slow delays nobody else.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["JournalHandler", "journal_handler"]

JOURNAL_SOCKET = "/run/systemd/journal/socket"
IDENTIFIER = "obdsupd"
SEND_TIMEOUT_S = 1.0
VALUE_MAX_BYTES = 32 * 1024  # a datagram has to fit into a socket's buffer
_LENGTH = struct.Struct("<Q")
_NOT_IN_A_NAME = re.compile(r"[^A-Z0-9_]")
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))


def journal_handler(path: str | Path = JOURNAL_SOCKET) -> JournalHandler | None:
    """A handler when stderr goes to the journal (JOURNAL_STREAM says so), else None."""
    if not _is_journal_stream(os.environ.get("JOURNAL_STREAM", "")) or not os.path.exists(path):
        return None
    return JournalHandler(path)


def _is_journal_stream(stream: str) -> bool:
    """Whether "DEVICE:INODE" is what stderr is; it is set for children that redirect it, too."""
    try:
        found = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return stream == f"{found.st_dev}:{found.st_ino}"


class JournalHandler(logging.Handler):
    """Sends each record to the journal; what can not be sent is written to stderr instead."""

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self._path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(SEND_TIMEOUT_S)

    def emit(self, record: logging.LogRecord) -> None:
        """Called by logging, in its thread."""
        try:
            data = b"".join(_encoded(name, value) for name, value in _fields(record))
            self._socket.sendto(data, self._path)
        except OSError as error:
            sys.stderr.write(f"{record.getMessage()} (not in the journal: {error})\n")

    def close(self) -> None:
        self._socket.close()
        super().close()


def _fields(record: logging.LogRecord) -> Iterator[tuple[str, str]]:
    yield "MESSAGE", record.getMessage()  # a traceback is in it: the queue's handler formats
    yield "PRIORITY", str(next((n for level, n in _PRIORITIES if record.levelno >= level), 7))
    yield "SYSLOG_IDENTIFIER", IDENTIFIER
    yield "LOGGER", record.name
    event = getattr(record, "event", None)
    if event is None:
        return
    yield "OBDSUP_EVENT", event.name
    if event.device:
        yield "OBDSUP_DEVICE", event.device
    for name, value in event.fields.items():
        yield f"OBDSUP_{_NOT_IN_A_NAME.sub('_', name.upper())}", str(value)


def _encoded(name: str, value: str) -> bytes:
    """``NAME=value``; with a newline in it, the name and the length come first."""
    raw = value.encode(errors="backslashreplace")[:VALUE_MAX_BYTES]
    if b"\n" in raw:
        return name.encode() + b"\n" + _LENGTH.pack(len(raw)) + raw + b"\n"
    return name.encode() + b"=" + raw + b"\n"
