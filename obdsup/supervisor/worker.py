"""What the supervisor knows of one worker process."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from obdsup.state.process import ProcessIdentity
from obdsup.supervisor.worker_link import WorkerLink
from obdsup.supervisor.worker_machine import WorkerAction, WorkerEvent, WorkerState, step

__all__ = ["Worker"]


@dataclass(slots=True, eq=False)
class Worker:
    """One worker. ``pidfd`` belongs to its WorkerProcess; ``has_exited`` is set when it is dead.

    Fields change under the fleet's lock only.
    """

    id: str
    identity: ProcessIdentity
    pidfd: int
    link: WorkerLink
    state: WorkerState = WorkerState.STARTING
    release: str = ""
    device: str = ""  # the one it serves
    is_warm: bool = False  # every image known when it got ready is open
    started_s: float = field(default_factory=time.monotonic)
    exited_s: float = 0.0  # monotonic, when the supervisor noticed
    has_exited: threading.Event = field(default_factory=threading.Event)

    def step(self, event: WorkerEvent) -> tuple[WorkerAction, ...]:
        """Changes the state; returns what the fleet has to do."""
        self.state, actions = step(self.state, event, time.monotonic())
        return actions
