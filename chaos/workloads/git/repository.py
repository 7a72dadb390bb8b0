"""Orders to the container and their answers: one at a time, with their times."""

from __future__ import annotations

import os
import selectors
import time
from pathlib import Path

from chaos.rig.latency import Operation
from chaos.workloads.git.script import FAILED, OK, PIPE_IN, PIPE_OUT

__all__ = ["OrderFailed", "Orders", "make_pipes"]


class OrderFailed(Exception):
    """A tool in the container failed; the text is what it said."""


def make_pipes(folder: Path) -> None:
    """Makes the pipes that the container and ``Orders`` meet at; fine when they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (PIPE_IN, PIPE_OUT):
        if not (folder / name).exists():
            os.mkfifo(folder / name)


class Orders:
    """Our ends of the pipes; they outlive a restart of the container.

    Args:
        timeout_s: how long one order may take.
    """

    def __init__(self, folder: Path, timeout_s: float) -> None:
        # Opened for both ways, a pipe neither waits for its other end nor ends with it.
        self._in = os.open(folder / PIPE_IN, os.O_RDWR | os.O_CLOEXEC)
        self._out = os.open(folder / PIPE_OUT, os.O_RDWR | os.O_CLOEXEC)
        self._timeout_s = timeout_s
        self._read = b""

    def give(self, order: str) -> tuple[str, Operation]:
        """Has one order carried out; returns the result and its times.

        Raises:
            OrderFailed: a tool failed.
            OSError: no answer within the time.
        """
        begun_ns = time.monotonic_ns()
        os.write(self._in, f"{order}\n".encode())
        line = self._line(order)
        operation = Operation(begun_ns, time.monotonic_ns())
        word, _, rest = line.partition(" ")
        if word == FAILED:
            raise OrderFailed(rest.strip())
        assert word == OK, line
        return rest.strip(), operation

    def close(self) -> None:
        os.close(self._in)
        os.close(self._out)

    def _line(self, order: str) -> str:
        deadline = time.monotonic() + self._timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._out, selectors.EVENT_READ)
            while b"\n" not in self._read:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise TimeoutError(f"no answer to {order!r} within {self._timeout_s:.0f} s")
                self._read += os.read(self._out, 65536)
        line, _, self._read = self._read.partition(b"\n")
        return line.decode(errors="replace")
