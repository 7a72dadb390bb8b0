"""Events: one per state transition, from a closed list, to the log and to state.db.

Neither sink is waited for: log lines go through a bounded queue to a thread that writes them (a
full queue drops lines and counts them), rows through the database's writer. Where stderr is the
systemd journal, lines go to it with fields (journald.py).
"""

from __future__ import annotations

import logging
import logging.handlers
import queue
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from obdsup.state import tables
from obdsup.state.database import Database
from obdsup.supervisor.journald import journal_handler

__all__ = ["EVENT_NAMES", "Event", "EventLog", "start_logging"]

EVENT_NAMES = frozenset(
    {
        "supervisor.started", "supervisor.stopped", "supervisor.failed", "provider.chosen",
        "worker.spawned", "worker.ready", "worker.adopted", "worker.lost", "worker.stopped",
        "worker.fenced", "worker.failed", "worker.slow", "worker.refused",
        "device.created", "device.planned", "device.ring_made", "device.serving", "device.online",
        "device.retracting", "device.retracted", "device.drained", "device.gone", "device.failed",
        "device.rolling_back", "device.blocked", "device.void",
        "takeover.done", "takeover.retried", "takeover.other_release", "ring.adopted", "ring.reset",
        "handoff.done", "handoff.failed", "handoff.drained", "operation.refused", "state.lost",
        "state.rebuilt", "device.rebuilt", "device.unclaimed",
        "device.quarantined", "device.resumed", "device.hung", "device.slow", "device.adopted",
        "device.released", "device.resized", "device.restored", "device.restoring",
        "ring.reset_by_others",
        "command.poisoned", "worker.hung", "worker.oom", "worker.unlimited", "worker.spread",
        "rollout.started", "rollout.canary", "rollout.batch", "rollout.done",
        "rollout.rolling_back", "rollout.rolled_back", "rollout.failed", "supervisor.reexec",
    }
)  # fmt: skip

log = logging.getLogger("obdsup")
LOG_LINES_QUEUED = 10_000


class _DroppingHandler(logging.handlers.QueueHandler):
    """Never blocks: a line that does not fit in the queue is dropped and counted."""

    dropped = 0

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            self.dropped += 1


def start_logging(level: int) -> logging.handlers.QueueListener:
    """Logs to stderr from a thread of its own; the caller stops the listener at exit."""
    stream: logging.Handler | None = journal_handler()
    if stream is None:
        stream = logging.StreamHandler(sys.stderr)
        stream.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    lines: queue.Queue[logging.LogRecord] = queue.Queue(LOG_LINES_QUEUED)
    root = logging.getLogger()
    root.setLevel(level)
    root.addHandler(_DroppingHandler(lines))
    listener = logging.handlers.QueueListener(lines, stream)
    listener.start()
    return listener


def _text(value: object) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return repr(text) if not text or any(c in text for c in " \n\"'=") else text


@dataclass(frozen=True, slots=True)
class Event:
    """One event as it is emitted; ``device`` is "" when it concerns none."""

    ts: float
    name: str
    device: str
    level: int
    fields: dict[str, object]


class EventLog:
    """Emits events; safe from any thread, never blocks."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # Called in the emitting thread with each event; they must not block, nor emit.
        self.listeners: list[Callable[[Event], None]] = []

    def emit(
        self, name: str, device: str = "", *, level: int = logging.INFO, **fields: object
    ) -> None:
        """Logs one event of EVENT_NAMES and queues its row."""
        assert name in EVENT_NAMES, name
        parts = [f"dev={device}"] if device else []
        parts += [f"{key}={_text(value)}" for key, value in fields.items()]
        event = Event(time.time(), name, device, level, fields)
        log.log(level, "%s %s", name, " ".join(parts), extra={"event": event})
        self._database.later(tables.add_event(event.ts, name, device, fields))
        for listener in self.listeners:
            try:
                listener(event)
            except Exception:
                log.exception("a listener of event %s failed", name)
