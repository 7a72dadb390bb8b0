"""What all faults of the environment share: the watched device before and after, and events since.

The other modules called environment_* hold the faults themselves, one for each thing that breaks:
memory, disks, lower files, the clock, the journal, state.db.
"""

from __future__ import annotations

import mmap
import os
import time
from typing import Any

from chaos.faults.base import Landing, Site
from chaos.rig.counters import Counters
from chaos.rig.node import wait_until
from chaos.rig.problem import RigError
from chaos.rig.process import Process

__all__ = ["Watch"]

GOES_ON_CMDS = 4  # commands that show that a device is being served


class Watch:
    """The device a fault is aimed at, looked at from outside from ``begun_ns`` on."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.before: Counters = site.device.journal.read()
        self.begun_ns = time.monotonic_ns()

    def worker(self) -> Process:
        """The worker that serves it.

        Raises:
            RigError: the journal names a process that does not run.
        """
        process = Process.of(self.before.owner_pid)
        if process is None:
            raise RigError(
                f"the journal of {self.site.device.name} names worker {self.before.owner_pid}, "
                "which is not running"
            )
        return process

    def strike_now(self) -> None:
        """The fault begins now: counters and time are those from before it."""
        self.before = self.site.device.journal.read()
        self.begun_ns = time.monotonic_ns()

    def wait_for_successor(self) -> Counters:
        """Waits for the first completion by another worker; its counters.

        Raises:
            RigError: not within the patience.
        """

        def is_served_anew() -> bool:
            now = self.site.device.journal.read()
            return now.owner_pid != self.before.owner_pid and now.first_publish_ns > self.begun_ns

        wait_until(is_served_anew, self.site.patience_s, f"{self.site.device.name} served again")
        return self.site.device.journal.read()

    def wait_until_it_goes_on(self) -> None:
        """Waits until commands are completed, whoever completes them: nothing holds it up.

        A device without load says nothing, so one with a block device is read as well.

        Raises:
            RigError: not within the patience.
        """
        start = self.site.device.journal.read().completed

        def has_gone_on() -> bool:
            self._read_once()
            return self.site.device.journal.read().completed >= start + GOES_ON_CMDS

        wait_until(has_gone_on, self.site.patience_s, f"{self.site.device.name} goes on")

    def is_same_worker(self) -> bool:
        """Whether it is served by the worker and under the generation from before."""
        now = self.site.device.journal.read()
        return (now.owner_pid, now.owner_generation) == (
            self.before.owner_pid,
            self.before.owner_generation,
        )

    def last_event(self) -> int:
        """The number of the newest event."""
        rows = self.site.node.ask("events", newest=1)
        return int(rows[-1]["id"]) if rows else 0

    def events_of(self, device: str, name: str) -> list[dict[str, Any]]:
        """The newest events of a device that have this name, oldest first."""
        rows: list[dict[str, Any]] = self.site.node.ask(
            "events", newest=100, device=device, pattern=name
        )
        return rows

    def events_since(self, number: int, name: str) -> list[dict[str, Any]]:
        """The events of this device of one name after an event number."""
        device = self.site.device.name
        rows = self._events_after(number)
        return [row for row in rows if row["event"] == name and row["device"] == device]

    def _events_after(self, number: int) -> list[dict[str, Any]]:
        """All of them: an answer holds the oldest few thousand only."""
        found: list[dict[str, Any]] = []
        while rows := self.site.node.ask("events", since=number):
            found += rows
            number = int(rows[-1]["id"])
        return found

    def wait_for_supervisor(self) -> None:
        """Waits until the supervisor answers and a standby is warm.

        Raises:
            RigError: it ended, or not within the patience.
        """
        node = self.site.node
        wait_until(node.is_answering, self.site.patience_s, "the supervisor answers")
        wait_until(node.has_standby, self.site.patience_s, "a warm standby")

    def landing(
        self,
        *,
        has_landed: bool,
        evidence: str,
        wrong: list[str] | None = None,
        served_ns: int | None = None,
        workers_killed: int = 0,
        supervisors_killed: int = 0,
        kernel_lines: tuple[str, ...] = (),
    ) -> Landing:
        """The landing; what successors recovered is read from the journal now."""
        after = self.site.device.journal.read()
        return Landing(
            begun_ns=self.begun_ns,
            served_ns=time.monotonic_ns() if served_ns is None else served_ns,
            has_landed=has_landed,
            evidence=evidence,
            # a journal that was started over counts anew
            recovered=max(after.recovered - self.before.recovered, 0),
            already_done=max(after.already_done - self.before.already_done, 0),
            wrong=tuple(wrong or ()),
            workers_killed=workers_killed,
            supervisors_killed=supervisors_killed,
            kernel_lines=kernel_lines,
        )

    def _read_once(self) -> None:
        if self.site.device.block_device is None:
            return
        fd = os.open(self.site.device.block_device, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
        try:
            with mmap.mmap(-1, 4096) as buffer:
                os.preadv(fd, [buffer], 0)
        finally:
            os.close(fd)
