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
        if os.environ.get("NOTIFY_SOCKET"):
            import sdnotify

            self._notifier = sdnotify.SystemdNotifier()

    def ready(self, status: str) -> None:
        """Recovery is done and requests are answered."""
        self._send(f"READY=1\nSTATUS={status}")

    def alive(self) -> None:
        """The loop turns. Sent at every tick: WatchdogSec must be more than a few seconds."""
        self._send("WATCHDOG=1")

    def reloading(self) -> None:
        """This process becomes another program; ``ready`` of that one ends it."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The supervisor leaves; workers serve on."""
        self._send("STOPPING=1")

    def _send(self, text: str) -> None:
        if self._notifier is not None:
            self._notifier.notify(text)
