"""Holds one thread of a process, while the others run on: a control thread that hangs.

A signal stops a whole process; a debugger stops a thread. ptrace(2) wants all its calls from the
thread that seized, so use it from one thread.
"""

from __future__ import annotations

import ctypes
import os
from types import TracebackType
from typing import Self

from chaos.rig.problem import RigError

__all__ = ["HeldThread"]

_DETACH, _SEIZE, _INTERRUPT = 17, 0x4206, 0x4207  # linux/ptrace.h
_WALL = 0x40000000  # of waitpid: also threads that are no children of ours


class HeldThread:
    """One thread, held while the context lasts; killing its process works as ever.

    Args:
        tid: of the thread; the pid of a process is the id of its first thread.
    """

    def __init__(self, tid: int) -> None:
        self._tid = tid
        self._libc = ctypes.CDLL(None, use_errno=True)

    def __enter__(self) -> Self:
        """Returns once the thread stands still.

        Raises:
            RigError: there is no such thread, or somebody else debugs it.
        """
        self._order(_SEIZE)
        self._order(_INTERRUPT)
        os.waitpid(self._tid, _WALL)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Lets it go on; fine when it was killed meanwhile."""
        if self._libc.ptrace(_DETACH, self._tid, None, None):
            os.waitpid(self._tid, _WALL)  # a tracer hears of the death as a parent does

    def _order(self, request: int) -> None:
        if self._libc.ptrace(request, self._tid, None, None):
            reason = os.strerror(ctypes.get_errno())
            raise RigError(f"thread {self._tid} can not be held: {reason}")
