"""Ctrl-C and SIGTERM: when they break something off, and when they have to wait."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

__all__ = ["Interruption"]


class Interruption:
    """Turns the first signal into ``KeyboardInterrupt``, later ones only when ``allow`` says so.

    What is being taken down is not broken off: a signal then is kept for ``raise_if_kept``.
    """

    def __init__(self) -> None:
        self._is_allowed = True
        self._is_kept = False

    def install(self) -> None:
        """Handles SIGINT and SIGTERM from now on; in the main thread."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def allow(self) -> None:
        """The next signal breaks off what is going on."""
        self._is_allowed = True

    @contextlib.contextmanager
    def put_off(self) -> Iterator[None]:
        """Inside, signals are kept."""
        before, self._is_allowed = self._is_allowed, False
        try:
            yield
        finally:
            self._is_allowed = before

    def raise_if_kept(self) -> None:
        """Raises for a signal that came while it could not be answered.

        Raises:
            KeyboardInterrupt: there was one.
        """
        if self._is_kept:
            self._is_kept = False
            raise KeyboardInterrupt

    def _handle(self, _number: int, _frame: object) -> None:
        if not self._is_allowed:
            self._is_kept = True
            return
        self._is_allowed = False
        raise KeyboardInterrupt
