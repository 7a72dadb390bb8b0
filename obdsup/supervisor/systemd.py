"""Messages to systemd: READY, STATUS, WATCHDOG, STOPPING; nothing without NOTIFY_SOCKET."""

from __future__ import annotations

import os
import time
from typing import Any

__all__ = ["Systemd"]


class Systemd:
    """The notify socket, if there is one."""

    def __init__(self) -> None:
        self._notifier: Any = None
        self._problem = ""
        if os.environ.get("NOTIFY_SOCKET"):
            import sdnotify

            self._notifier = sdnotify.SystemdNotifier()

    def ready(self, status: str) -> None:
        """Recovery is done and requests are answered."""
        self._send(f"READY=1\nSTATUS={status}")

    def alive(self, problem: str) -> None:
        """The loop turns. Sent at every tick: WatchdogSec must be more than a few seconds.

        Args:
            problem: what else does not; the watchdog is not fed then. "" when all do.
        """
        if problem:
            if problem != self._problem:
                self._send(f"STATUS=not healthy: {problem}")
        else:
            self._send(("STATUS=healthy again\n" if self._problem else "") + "WATCHDOG=1")
        self._problem = problem

    def reloading(self) -> None:
        """This process becomes another program; ``ready`` of that one ends it."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The supervisor leaves; workers serve on. The last message."""
        self._send("STOPPING=1")
        if self._notifier is not None:
            self._notifier.socket.close()
            self._notifier = None

    def _send(self, text: str) -> None:
        if self._notifier is not None:
            self._notifier.notify(text)
