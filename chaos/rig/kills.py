"""The kills themselves: aimed at commands in flight, at exactly the right process, and proven.

A kill is proven to have landed by the journal: the successor found commands that its predecessor
had taken and not finished (``recovered`` grew), or one it had just finished (``already_done``).
"""

from __future__ import annotations

import enum
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Protocol

from chaos.rig.counters import Counters
from chaos.rig.problem import RigError
from chaos.rig.process import Process

__all__ = ["Killer", "Kind", "LandedKill", "Target", "aim"]

STOPPING_S = 0.0001
LOOK_AGAIN_S = 0.0001  # commands are in flight for longer; looking all the time takes a processor
AIM_SHARE = 0.01  # of the patience: 0.6 s on a machine that is fast enough, more in the guest


class Kind(enum.Enum):
    """Who dies."""

    WORKER = "worker"
    SUPERVISOR = "supervisor"
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class LandedKill:
    """One kill and what came of it; times are CLOCK_MONOTONIC nanoseconds.

    ``served_ns``: first completion by the successor; after a supervisor's death alone, its
    successor's first answer. ``recovered`` counts in-flight commands that were executed again,
    ``already_done`` those that turned out to be finished: both stay 0 when only a supervisor died.
    """

    kind: Kind
    killed_ns: int
    served_ns: int
    recovered: int
    already_done: int

    @property
    def hit_in_flight(self) -> bool:
        return self.recovered + self.already_done > 0


class Target(Protocol):
    """The installation as the killer sees it (``Node``; a fake in tests)."""

    def replacing_supervisor(self) -> AbstractContextManager[Process]: ...
    def is_answering(self) -> bool: ...
    def has_standby(self) -> bool: ...


def aim(read: Callable[[], Counters], patience_s: float) -> Counters:
    """Waits a moment for a command in flight; returns the counters as they are then."""
    deadline = time.monotonic() + patience_s * AIM_SHARE
    counters = read()
    while not counters.in_flight and time.monotonic() < deadline:
        time.sleep(LOOK_AGAIN_S)
        counters = read()
    return counters


class Killer:
    """Carries out kills one at a time and sees each through.

    Args:
        read: reads the device's journal counters now.
        wait_until: waits for a predicate with a bound and a name; raises RigError at the bound.
        patience_s: bound of each wait.
    """

    def __init__(
        self,
        target: Target,
        read: Callable[[], Counters],
        wait_until: Callable[[Callable[[], bool], float, str], None],
        patience_s: float,
    ) -> None:
        self._target = target
        self._read = read
        self._wait_until = wait_until
        self._patience_s = patience_s

    def wait_ready(self) -> None:
        """Waits until a standby is ready to take over: a kill before that would test its start.

        Raises:
            RigError: not within the bound.
        """
        self._wait_until(self._target.has_standby, self._patience_s, "a warm standby")

    def kill(
        self, kind: Kind, *, is_caught: bool = False, is_worker_kept: bool = True
    ) -> LandedKill:
        """Kills, starts what systemd would start again, and waits until the device is served.

        Args:
            is_caught: the worker is stopped first, and let go on until it is caught with commands
                in flight: one that is quick, or has little to do, is hardly ever hit otherwise. It
                dies where it was stopped.
            is_worker_kept: after a supervisor's death the same worker must serve.

        Raises:
            RigError: a victim was not who it should be, or service did not come back.
        """
        if kind is Kind.SUPERVISOR:
            return self._kill_supervisor(is_worker_kept=is_worker_kept)
        with ExitStack() as stack:
            victims = []
            if kind is Kind.BOTH:  # the supervisor first, or it would act on the worker's death
                supervisor = stack.enter_context(self._target.replacing_supervisor())
                victims.append(stack.enter_context(supervisor.held()))
            worker = self._worker()
            victims.append(stack.enter_context(worker.held()))
            before = aim(self._read, self._patience_s)
            killed_ns = time.monotonic_ns()
            if is_caught:
                before, killed_ns = self._catch(worker, victims[-1])
            if not all(send(signal.SIGKILL) for send in victims):
                raise RigError(f"worker {worker.pid} or its supervisor was gone before the kill")
        self._wait_until(
            lambda: self._is_served_by_successor(before.owner_generation, killed_ns),
            self._patience_s,
            f"service after the {kind.value} died",
        )
        after = self._read()
        return LandedKill(
            kind,
            killed_ns,
            after.first_publish_ns,
            after.recovered - before.recovered,
            after.already_done - before.already_done,
        )

    def _catch(
        self, worker: Process, send: Callable[[signal.Signals], bool]
    ) -> tuple[Counters, int]:
        """Stops the worker with commands in flight; the counters, and when it was stopped."""
        deadline = time.monotonic() + self._patience_s * AIM_SHARE
        while True:
            stopped_ns = time.monotonic_ns()
            send(signal.SIGSTOP)
            while not worker.is_stopped() and time.monotonic() < deadline:
                time.sleep(STOPPING_S)  # no longer: its users wait
            counters = self._read()
            if counters.in_flight or time.monotonic() > deadline:
                return counters, stopped_ns
            send(signal.SIGCONT)
            aim(self._read, self._patience_s)

    def _kill_supervisor(self, *, is_worker_kept: bool) -> LandedKill:
        before = self._read()
        with self._target.replacing_supervisor() as supervisor:
            killed_ns = time.monotonic_ns()
            supervisor.send(signal.SIGKILL)
        self._wait_until(
            self._target.is_answering, self._patience_s, "an answer of the next supervisor"
        )
        after = self._read()
        is_same = (after.owner_pid, after.owner_generation) == (
            before.owner_pid,
            before.owner_generation,
        )
        if is_worker_kept and not is_same:
            raise RigError(
                "the next supervisor did not adopt the worker: "
                f"pid {before.owner_pid} generation {before.owner_generation} became "
                f"pid {after.owner_pid} generation {after.owner_generation}"
            )
        return LandedKill(Kind.SUPERVISOR, killed_ns, time.monotonic_ns(), 0, 0)

    def _worker(self) -> Process:
        """Whoever serves it; when that one has just died, the next one."""
        found: list[Process] = []

        def is_there() -> bool:
            process = Process.of(self._read().owner_pid)
            found.extend([process] if process else [])
            return bool(found)

        self._wait_until(is_there, self._patience_s, "a worker that the journal names")
        return found[0]

    def _is_served_by_successor(self, generation: int, killed_ns: int) -> bool:
        counters = self._read()
        return counters.owner_generation > generation and counters.first_publish_ns > killed_ns
