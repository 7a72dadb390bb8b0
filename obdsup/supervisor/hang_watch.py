"""Looks at all served devices and all workers four times a second; has what hangs replaced.

The verdicts are ``hang_judge``'s. A worker that hangs is fenced (SIGKILL, and proof of death); the
take-over follows by itself, as after any death. One thread looks and never waits for a worker; each
fencing has a thread of its own, because a process can be stuck in the kernel.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from dataclasses import asdict

from obdsup.errors import ObdError
from obdsup.supervisor.control_server import Operation
from obdsup.supervisor.death import Hang
from obdsup.supervisor.devices import Devices
from obdsup.supervisor.event_log import EventLog
from obdsup.supervisor.fleet import Fleet
from obdsup.supervisor.hang_judge import Verdict
from obdsup.supervisor.service_machine import ServiceState
from obdsup.supervisor.watched_device import Finding, WatchedDevice
from obdsup.supervisor.watched_worker import WatchedWorker
from obdsup.supervisor.worker import Worker
from obdsup.supervisor.worker_machine import WorkerState

__all__ = ["HangWatch"]

INTERVAL_S = 0.25
DUE_INTERVAL_S = 0.05  # while a silence is about to reach the limit
SLOW_OVER_S = 30.0  # not slow for so long: the next time is told of again
LATE_S = 5.0  # a watch that has not looked for so long is not well itself
CONFIRM_TIMEOUT_S = 0.5  # for the control thread of a worker whose engine stands
log = logging.getLogger(__name__)


class HangWatch:
    """Starts with ``start``; with a limit of 0 it never looks.

    Args:
        limit_s: how long work may stand still.
        events: told of hangs, of slow storage and of rings that others reset.
        fleet: fences.
        devices: what to look at.
    """

    def __init__(self, limit_s: float, events: EventLog, fleet: Fleet, devices: Devices) -> None:
        self._limit_s = limit_s
        self._events = events
        self._fleet = fleet
        self._devices = devices
        self._watched: dict[str, WatchedDevice] = {}
        self._workers: dict[str, WatchedWorker] = {}
        self._findings: dict[str, Finding] = {}  # replaced as a whole, read by any thread
        self._told_slow_s: dict[str, float] = {}
        self._fencing: set[str] = set()  # ids of workers
        self._looked_at_s = time.monotonic()
        self._looks = 0
        self._cpu_s = 0.0
        self._is_due = False

    def start(self) -> None:
        """Begins to look."""
        if self._limit_s:
            self._looked_at_s = time.monotonic()
            threading.Thread(target=self._run, name="hang-watch", daemon=True).start()

    def health(self) -> str | None:
        """What is wrong with the watch itself; None when it looks as it should."""
        late_s = time.monotonic() - self._looked_at_s
        if self._limit_s and late_s > LATE_S:
            return f"the hang watch has not looked for {late_s:.0f} s"
        return None

    def report(self, name: str) -> dict[str, object] | None:
        """What the last look at a device found, as JSON values; None when it was not looked at."""
        finding = self._findings.get(name)
        if finding is None:
            return None
        found = asdict(finding.judgement)
        found["verdict"] = finding.judgement.verdict.value
        found["cdb"] = finding.command.cdb.hex() if finding.command else None
        return found

    def operations(self) -> dict[str, Operation]:
        """``hangs``: what the last looks found."""
        return {"hangs": lambda request, progress: self.describe()}

    def describe(self) -> dict[str, object]:
        """The limit, the looks so far, the processor time they took, and all verdicts."""
        return {
            "limit_s": self._limit_s,
            "looks": self._looks,
            "cpu_s": round(self._cpu_s, 6),
            "devices": {name: self.report(name) for name in sorted(self._findings)},
        }

    # -- the thread ------------------------------------------------------------------------------
    def _run(self) -> None:
        while True:
            time.sleep(DUE_INTERVAL_S if self._is_due else INTERVAL_S)
            try:
                self._look(time.monotonic())
            except Exception:
                # A bug: health() tells when it comes again and again.
                log.exception("hang watch failed")
                continue
            self._looked_at_s = time.monotonic()
            self._looks += 1
            self._cpu_s = time.thread_time()

    def _look(self, now_s: float) -> None:
        findings: dict[str, Finding] = {}
        silent: set[str] = set()  # ids of workers
        for device in self._devices.all():
            name, serving = device.record.name, device.serving
            worker, ring = serving.worker, serving.ring
            if serving.state is not ServiceState.SERVED or worker is None or ring is None:
                self._watched.pop(name, None)
                continue
            watched = self._watched.setdefault(name, WatchedDevice())
            pid = worker.identity.pid
            finding = watched.look(pid, serving.journal, ring, now_s, self._limit_s)
            findings[name] = finding
            if watched.is_silent:
                silent.add(worker.id)
            self._take(name, worker, finding, now_s)
        self._is_due = any(
            watched.is_due_within(INTERVAL_S, self._limit_s) for watched in self._watched.values()
        )
        self._findings = findings
        for name in self._watched.keys() - findings.keys():
            del self._watched[name]
            self._told_slow_s.pop(name, None)
        self._look_at_workers(silent, now_s)

    def _look_at_workers(self, silent: set[str], now_s: float) -> None:
        alive: set[str] = set()
        for worker in self._fleet.workers():
            if worker.state not in (WorkerState.STANDBY, WorkerState.SERVING):
                continue
            alive.add(worker.id)
            watched = self._workers.get(worker.id)
            if watched is None:
                begin_s = now_s + INTERVAL_S * (len(self._workers) % 4)  # not all at once
                watched = WatchedWorker(worker.identity.pid, worker.link.path, begin_s)
                self._workers[worker.id] = watched
            judgement = watched.look(now_s, self._limit_s, is_device_silent=worker.id in silent)
            if judgement.verdict.is_hung:
                self._fence_soon(worker, "", Finding(judgement))
        for worker_id in self._workers.keys() - alive:
            self._workers.pop(worker_id).close()

    # -- what is found ---------------------------------------------------------------------------
    def _take(self, name: str, worker: Worker, finding: Finding, now_s: float) -> None:
        if finding.foreign_resets:
            self._events.emit(
                "ring.reset_by_others", name, level=logging.WARNING,
                worker=worker.id, resets=finding.foreign_resets,
            )  # fmt: skip
        verdict = finding.judgement.verdict
        if verdict.is_hung:
            self._fence_soon(worker, name, finding)
        elif verdict in (Verdict.SLOW, Verdict.STARVED):
            if name not in self._told_slow_s:
                self._tell("device.slow", name, worker, finding)
            self._told_slow_s[name] = now_s
        elif now_s - self._told_slow_s.get(name, now_s) > SLOW_OVER_S:
            del self._told_slow_s[name]

    def _tell(self, event: str, name: str, worker: Worker, finding: Finding) -> None:
        judgement, command = finding.judgement, finding.command
        about = {"slot": command.slot, "cdb": command.cdb.hex()} if command else {}
        self._events.emit(
            event, name, level=logging.WARNING, worker=worker.id, pid=worker.identity.pid,
            verdict=judgement.verdict.value, reason=judgement.reason,
            for_s=round(judgement.age_s, 3), **about,
        )  # fmt: skip

    def _fence_soon(self, worker: Worker, name: str, finding: Finding) -> None:
        """Once per worker, in a thread: one that is stuck in the kernel takes its time to die."""
        if worker.id in self._fencing or worker.has_exited.is_set():
            return
        self._fencing.add(worker.id)
        threading.Thread(
            target=self._fence, args=(worker, name, finding), name=f"fence-{worker.id}", daemon=True
        ).start()

    def _fence(self, worker: Worker, name: str, finding: Finding) -> None:
        judgement = finding.judgement
        self._tell("device.hung" if name else "worker.hung", name or worker.device, worker, finding)
        is_blamed, reason = not judgement.is_from_outside, judgement.reason
        kind = judgement.hang_kind
        if is_blamed and judgement.verdict is Verdict.HUNG_ENGINE:
            dropped = self._why_dropped(worker, name)
            is_blamed, reason = not dropped, dropped or reason
            kind = "dropped" if dropped else kind
        try:
            text = f"{judgement.verdict.value} for {judgement.age_s:.1f} s: {reason}"
            self._fleet.fence(worker, text, Hang(kind, is_blamed))
        finally:
            self._fencing.discard(worker.id)

    def _why_dropped(self, worker: Worker, name: str) -> str:
        """An engine that has let go of one device lets its heartbeat stand, and hangs nowhere."""
        with contextlib.suppress(ObdError):
            answer = worker.link.call_aside("hello", CONFIRM_TIMEOUT_S, device=name)
            answer.close_fds()
            rows = [row for row in answer.body.get("devices", []) if row.get("name") == name]
            if not rows or rows[0].get("state") != "serving":
                failed = rows[0].get("failed") if rows else None
                return f"the worker dropped the device: {failed or 'no reason given'}"
        return ""
