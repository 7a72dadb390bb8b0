"""What the supervisor knows of one worker process."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from obdsup.state.process import ProcessIdentity
from obdsup.supervisor.death import Death, Hang
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
    release: str = ""  # the version it says it is
    release_path: str = ""  # where its release lies; "": the supervisor's own
    devices: set[str] = field(default_factory=set)  # those it serves, or is about to
    coming: set[str] = field(default_factory=set)  # of those: not served (yet)
    images: set[str] = field(default_factory=set)  # devices whose image it opened in advance
    is_warm: bool = False  # every image known when it got ready is open
    is_settled: bool = False  # closed the images of the devices it does not serve
    started_s: float = field(default_factory=time.monotonic)
    assigned_s: float = 0.0  # monotonic: the last time it was given a device
    exited_s: float = 0.0  # monotonic, when the supervisor noticed
    hang: Hang | None = None  # it is fenced because it did not move
    death: Death | None = None  # set before ``has_exited`` and before its devices are told
    has_exited: threading.Event = field(default_factory=threading.Event)

    @property
    def device(self) -> str:
        """The first of its devices, by name; "" when it has none."""
        return min(self.devices.copy(), default="")

    def step(self, event: WorkerEvent) -> tuple[WorkerAction, ...]:
        """Changes the state; returns what the fleet has to do."""
        self.state, actions = step(self.state, event, time.monotonic())
        return actions
