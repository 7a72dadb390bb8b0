"""What runs while things are killed: the checking clients and the direct reader."""

from __future__ import annotations

from pathlib import Path

from chaos.rig.latency import Operation
from chaos.rig.problem import RigError
from chaos.workloads.redis.checker import Checker
from chaos.workloads.redis.client import Client
from chaos.workloads.redis.ledger import Ledger
from chaos.workloads.redis.reader import DirectReader

__all__ = ["Crowd"]

CLIENTS = 4
READER_PAUSE_S = 0.004  # leaves the processors to redis
RECENT = 500  # operations per thread that a stall just now can be among


class Crowd:
    """The threads that load and check; ``start``, then ``stop``, once.

    Args:
        patience_s: after which a redis client takes an operation for failed.
        pause_s: between two operations of a thread; 0 on a machine that is fast enough.
    """

    def __init__(
        self,
        socket: Path,
        probe: Path,
        copy: Path,
        seed: int,
        ledger: Ledger,
        patience_s: float,
        pause_s: float,
    ) -> None:
        self.clients = [
            Client(n, seed, ledger, socket, patience_s, pause_s) for n in range(CLIENTS)
        ]
        self.reader = DirectReader(probe, copy, seed, max(pause_s, READER_PAUSE_S))
        self.threads: list[Checker] = [*self.clients, self.reader]
        self._patience_s = patience_s

    def start(self) -> None:
        """Starts all threads."""
        for thread in self.threads:
            thread.start()

    def stop(self) -> None:
        """Lets each thread finish the operation it is in. Fine to call again.

        Raises:
            RigError: an operation does not end: its I/O hangs.
        """
        for thread in self.threads:
            thread.stop()
        for thread in self.threads:
            if thread.ident is not None:
                thread.join(self._patience_s)
            if thread.is_alive():
                raise RigError(f"{thread.name} hangs in an operation")

    def recent(self) -> list[Operation]:
        """The latest operations of every thread."""
        return [o for thread in self.threads for o in thread.operations[-RECENT:]]

    def has_passed(self, moment_ns: int) -> bool:
        """Whether every thread that still runs ended an operation after this moment."""
        running = [thread for thread in self.threads if thread.is_alive()]
        return all(t.operations and t.operations[-1].ended_ns > moment_ns for t in running)

    def operations(self) -> list[Operation]:
        """All operations of every thread."""
        return [o for thread in self.threads for o in thread.operations]

    def errors(self) -> list[str]:
        """What failed, one line each."""
        return [e for thread in self.threads for e in thread.errors]

    def wrong(self) -> list[str]:
        """What was read and should not have been, one line each."""
        return [w for thread in self.threads for w in thread.wrong]
