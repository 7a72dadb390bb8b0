"""The load: the crowd of clients, its operations and verdicts noted as they come."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from chaos.rig.latency import Operation
from chaos.workloads.recorder import Recorder
from chaos.workloads.redis import client
from chaos.workloads.redis.crowd import Crowd
from chaos.workloads.redis.ledger import Ledger, Verdict

__all__ = ["RedisLoad"]

T = TypeVar("T")

GATHER_EVERY_S = 0.1
KINDS = {Verdict.LOST: "lost", Verdict.STALE: "stale", Verdict.FOREIGN: "corrupt"}


class RedisLoad:
    """Redis clients and a reader of the sealed layers, against one socket."""

    def __init__(
        self, socket: Path, crowd: Crowd, ledger: Ledger, recorder: Recorder, patience_s: float
    ) -> None:
        self._socket = socket
        self._crowd = crowd
        self._ledger = ledger
        self._recorder = recorder
        self._patience_s = patience_s
        self._is_started = False
        self._noted: dict[tuple[str, str], int] = {}  # (thread, list) -> entries gathered

    def step(self) -> None:
        if not self._is_started:
            self._crowd.start()
            self._is_started = True
        time.sleep(GATHER_EVERY_S)
        self._gather()

    def stop(self) -> None:
        self._crowd.stop()
        self._gather()

    def verify(self) -> None:
        try:
            wrong = client.read_back(self._socket, self._ledger, self._patience_s)
        except client.FAILURES as error:
            raise OSError(f"read back: {type(error).__name__}: {error}") from error
        self._note_wrong(wrong)

    def close(self) -> None:
        """The threads are daemons: they end with the process."""

    def _gather(self) -> None:
        operations: list[Operation] = []
        for thread in self._crowd.threads:
            operations += self._new(thread.name, "operations", thread.operations)
            for line in self._new(thread.name, "errors", thread.errors):
                self._recorder.found("io_errors", f"redis: {line}")
            self._note_wrong(self._new(thread.name, "wrong", thread.wrong))
        for begun_ns, ended_ns in sorted(operations, key=lambda operation: operation.ended_ns):
            self._recorder.operation(begun_ns, ended_ns)

    def _new(self, thread: str, name: str, entries: Sequence[T]) -> Sequence[T]:
        """What was appended to a list of a thread since the last time."""
        begin = self._noted.get((thread, name), 0)
        new = entries[begin:]
        self._noted[thread, name] = begin + len(new)
        return new

    def _note_wrong(self, lines: Sequence[str]) -> None:
        for line in lines:
            kind = next((k for verdict, k in KINDS.items() if f": {verdict.value} " in line), "")
            self._recorder.found(kind or "corrupt", f"redis: {line}")
