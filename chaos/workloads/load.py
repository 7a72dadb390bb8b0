"""The loop of a load program: steps until it is told to stop, then checks what it is told to check.

A load runs in a process of its own: neither its I/O that stands still nor its processor time holds
up the campaign. It is driven by lines on its standard input and answers on its standard output:

    (started)  running    the first operation was answered
    stop       stopped    no operation is under way
    verify     verified   everything was read back and judged
    (end of input)        it ends

An ``OSError`` of a step is an I/O error of the device and goes into the findings.
"""

from __future__ import annotations

import os
import selectors
import sys
import time
from typing import Protocol

from chaos.workloads.recorder import Recorder

__all__ = ["ERRORS_UNTIL_GIVING_UP", "Load", "serve"]

ERRORS_UNTIL_GIVING_UP = 20
PAUSE_AFTER_ERROR_S = 0.1


class Load(Protocol):
    """The load itself; called from one thread. Each method may raise ``OSError``."""

    def step(self) -> None:
        """Carries out and checks a few operations and notes them."""

    def stop(self) -> None:
        """Ends what is under way."""

    def verify(self) -> None:
        """Reads everything back and notes what is not as it was acknowledged."""

    def close(self) -> None:
        """Ends what it started; the process is about to end."""


def serve(load: Load, recorder: Recorder, pause_s: float) -> int:
    """Runs a load as ordered on standard input; returns the exit code of the process.

    Args:
        pause_s: between two steps.
    """
    os.set_blocking(sys.stdin.fileno(), False)
    orders = _Orders()
    is_running, is_told, error_cnt = True, False, 0
    while True:
        wait_s = None if not is_running else pause_s
        order = orders.next(PAUSE_AFTER_ERROR_S if error_cnt and is_running else wait_s)
        if order == "end":
            break
        try:
            if order == "stop":
                is_running = False
                load.stop()
            elif order == "verify":
                load.verify()
            elif is_running and error_cnt < ERRORS_UNTIL_GIVING_UP:
                load.step()
                error_cnt = 0
        except OSError as error:
            error_cnt += 1
            recorder.found("io_errors", f"{order or 'load'}: {error}")
        if not is_told and (recorder.operation_cnt or recorder.finding_cnt):
            is_told = True
            _answer("running", recorder)
        if order:
            _answer({"stop": "stopped", "verify": "verified"}[order], recorder)
    load.close()
    recorder.close()
    return 0


def _answer(word: str, recorder: Recorder) -> None:
    recorder.flush()
    print(word, flush=True)


class _Orders:
    """The lines of standard input, one at a time, without waiting longer than allowed."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._selector.register(sys.stdin, selectors.EVENT_READ)
        self._read = b""
        self._is_ended = False

    def next(self, wait_s: float | None) -> str:
        """The next order, "end" at the end of input, or "" when none came in time."""
        deadline = None if wait_s is None else time.monotonic() + wait_s
        while b"\n" not in self._read and not self._is_ended:
            left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not self._selector.select(left_s):
                return ""
            data = os.read(sys.stdin.fileno(), 4096)
            self._is_ended = not data
            self._read += data
        line, found, self._read = self._read.partition(b"\n")
        return line.decode() if found else "end"
