"""The worker's log: a line per transition on stderr, ``noun.verb key=value``; none per command.

Without ``logging``: that module alone would take a tenth of a worker's memory budget. A line is one
write(2); stderr is a file (``--log``) or what the supervisor gave us.
"""

from __future__ import annotations

import os
import time

__all__ = ["event"]

# Priorities as systemd reads them at the start of a line.
INFO, WARNING, ERROR = 6, 4, 3


def event(name: str, level: int = INFO, **fields: object) -> None:
    """Writes one line; an unwritable log is not a reason to stop serving."""
    pairs = "".join(f" {key}={value}" for key, value in fields.items() if value is not None)
    now_ms = time.time_ns() // 1_000_000
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now_ms // 1000))
    line = f"<{level}>{stamp}.{now_ms % 1000:03d}Z {name}{pairs}".replace("\n", " ") + "\n"
    try:
        os.write(2, line.encode(errors="replace"))
    except OSError:
        return
