"""A ring and the process that serves it, for checks: start, kill, start again, stop for sure."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from obdsup.supervisor.provider.base import RingHandle

__all__ = ["FakeServerProcess", "fake_served"]

_PROGRAM = Path(__file__).parent.parent / "foreign" / "server.py"


class FakeServerProcess:
    """The fake server as a child process; at most one runs at a time."""

    def __init__(self, handle: RingHandle, backing: Path) -> None:
        self._handle = handle
        self._backing = backing
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        assert self._child is None, "a server runs already"
        fds = self._handle.fds
        self._child = subprocess.Popen(
            [
                sys.executable, "-S", str(_PROGRAM), self._handle.kind,
                str(self._handle.map_bytes), str(self._backing), *map(str, fds),
            ],
            pass_fds=fds,
        )  # fmt: skip

    def kill(self) -> None:
        """SIGKILL; returns when it is dead."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None


@contextlib.contextmanager
def fake_served(handle: RingHandle, backing: Path, size_bytes: int) -> Iterator[FakeServerProcess]:
    """A running server on a fresh backing file; dead when the block is left."""
    if not backing.exists():
        fd = os.open(backing, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        os.ftruncate(fd, size_bytes)
        os.close(fd)
    server = FakeServerProcess(handle, backing)
    server.start()
    try:
        yield server
    finally:
        server.kill()
