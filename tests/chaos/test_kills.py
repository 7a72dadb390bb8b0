"""The killer against stand-in processes: it kills the right ones and proves what it hit."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from chaos.rig.counters import Counters
from chaos.rig.kills import Killer, Kind
from chaos.rig.node import wait_until
from chaos.rig.problem import Overdue, RigError
from chaos.rig.process import Process
from tests.conftest import eventually

PATIENCE_S = 10.0


def _stand_in() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)


class FakeNode:
    """Stand-in processes for supervisor and worker, and the counters a journal would show.

    With a supervisor alive, a dead worker's successor has taken over whenever it is looked at.
    ``recovers`` is what each successor finds in flight.
    """

    def __init__(self, recovers: int = 2) -> None:
        self.recovers = recovers
        self.adopts = True
        self.killed: list[str] = []
        self._supervisor: subprocess.Popen[bytes] | None = _stand_in()
        self._worker = _stand_in()
        self._counters = Counters(self._worker.pid, 1, 1, 3, 100, 0, 0, 0)

    def close(self) -> None:
        for process in (self._supervisor, self._worker):
            if process is not None:
                process.kill()
                process.communicate()

    def read(self) -> Counters:
        if self._supervisor is not None and Process.of(self._worker.pid) is None:
            self._take_over()
        return self._counters

    def supervisor(self) -> Process:
        assert self._supervisor is not None
        process = Process.of(self._supervisor.pid)
        assert process is not None
        return process

    @contextlib.contextmanager
    def replacing_supervisor(self) -> Iterator[Process]:
        yield self.supervisor()
        self.reap_supervisor()
        self.start_supervisor()

    def reap_supervisor(self) -> None:
        assert self._supervisor is not None
        self._supervisor.communicate()
        self.killed.append(f"supervisor {self._supervisor.returncode}")
        self._supervisor = None

    def start_supervisor(self) -> None:
        self._supervisor = _stand_in()
        if not self.adopts:
            self._worker.kill()
            self._worker.wait()

    def is_answering(self) -> bool:
        self.read()
        return True

    def has_standby(self) -> bool:
        return True

    def _take_over(self) -> None:
        self._worker.communicate()
        self.killed.append(f"worker {self._worker.returncode}")
        self._worker = _stand_in()
        old = self._counters
        self._counters = replace(
            old,
            owner_pid=self._worker.pid,
            owner_generation=old.owner_generation + 1,
            first_publish_ns=time.monotonic_ns(),
            recovered=old.recovered + self.recovers,
        )


@pytest.fixture
def node() -> Iterator[FakeNode]:
    node = FakeNode()
    try:
        yield node
    finally:
        node.close()


@pytest.fixture
def killer(node: FakeNode) -> Killer:
    return Killer(node, node.read, wait_until, PATIENCE_S)


def test_worker_kill_hits_the_worker_alone_and_waits_for_service(
    node: FakeNode, killer: Killer
) -> None:
    kill = killer.kill(Kind.WORKER)
    assert node.killed == ["worker -9"]
    assert (kill.recovered, kill.hit_in_flight) == (2, True)
    assert kill.served_ns > kill.killed_ns


def test_worker_that_is_to_be_caught_is_let_go_on_until_it_has_something_in_flight(
    node: FakeNode,
) -> None:
    found_stopped: list[int] = []

    def read() -> Counters:
        counters = node.read()
        if counters.owner_generation > 1:
            return counters
        worker = Process.of(counters.owner_pid)
        if worker is None or not worker.is_stopped():
            return replace(counters, in_flight=1)  # done before it could be stopped
        found_stopped.append(counters.owner_pid)
        return replace(counters, in_flight=0 if len(found_stopped) < 3 else 2)

    kill = Killer(node, read, wait_until, PATIENCE_S).kill(Kind.WORKER, is_caught=True)
    assert node.killed == ["worker -9"]
    assert kill.hit_in_flight
    assert len(found_stopped) >= 3


def test_supervisor_kill_leaves_the_worker_alone(node: FakeNode, killer: Killer) -> None:
    before = node.read()
    kill = killer.kill(Kind.SUPERVISOR)
    assert node.killed == ["supervisor -9"]
    assert node.read() == before
    assert not kill.hit_in_flight


def test_both_are_killed_at_once_and_the_supervisor_started_again(
    node: FakeNode, killer: Killer
) -> None:
    kill = killer.kill(Kind.BOTH)
    assert sorted(node.killed) == ["supervisor -9", "worker -9"]
    assert kill.recovered == 2
    assert node.supervisor().is_alive()


def test_kill_that_found_nothing_in_flight_does_not_count_as_hit(
    node: FakeNode, killer: Killer
) -> None:
    node.recovers = 0
    assert not killer.kill(Kind.WORKER).hit_in_flight


def test_supervisor_that_replaces_the_worker_instead_of_adopting_it_is_caught(
    node: FakeNode, killer: Killer
) -> None:
    node.adopts = False
    with pytest.raises(RigError, match="did not adopt"):
        killer.kill(Kind.SUPERVISOR)


def test_service_that_does_not_come_back_is_caught(node: FakeNode) -> None:
    def _frozen() -> Counters:
        return counters

    counters = node.read()
    killer = Killer(node, _frozen, _impatient, PATIENCE_S)
    with pytest.raises(RigError, match="service after the worker died"):
        killer.kill(Kind.WORKER)


def test_journal_that_names_a_dead_worker_is_caught(node: FakeNode) -> None:
    dead = _stand_in()
    dead.kill()
    dead.communicate()
    stale = replace(node.read(), owner_pid=dead.pid)
    with pytest.raises(Overdue, match="a worker that the journal names"):
        Killer(node, lambda: stale, wait_until, 0.2).kill(Kind.WORKER)


def test_signal_never_reaches_a_process_that_took_over_the_pid() -> None:
    stand_in = _stand_in()
    try:
        process = Process.of(stand_in.pid)
        assert process is not None
        assert process.is_alive()
        stand_in.kill()
        eventually(lambda: not process.is_alive())  # a zombie already counts as gone
        assert not process.send(9)  # type: ignore[arg-type]
        assert process.wait_gone(0)
    finally:
        stand_in.kill()
        stand_in.communicate()


def _impatient(predicate: Callable[[], bool], timeout_s: float, what: str) -> None:
    if not predicate():
        raise RigError(what)
