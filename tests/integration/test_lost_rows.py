"""state.db and every copy of its rows are lost under load: real workers and rings, no error."""

from __future__ import annotations

import mmap
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import eventually
from tests.integration.service import Service
from tests.integration.test_supervisor import (
    commands_go_on,
    create,
    is_served_by_another,
    verified,
)

pytestmark = [pytest.mark.integration]

NAMES = ("a", "b")
KEPT = ("name", "uuid", "image", "size_bytes", "writable", "phase", "provider", "block_device")
BLOCK = 4096


def facts(service: Service) -> list[list[Any]]:
    return [[row[key] for key in (*KEPT, "upper")] for row in service.call("device", "list")]


def remove_copies(service: Service) -> None:
    copies = list((service.run_dir / "devices").glob("*/row.json"))
    assert copies
    for path in copies:
        path.unlink()


def lose_all(service: Service) -> None:
    """While the supervisor is dead."""
    service.kill_supervisor()
    for path in service.state_dir.glob("state.db*"):
        path.unlink()
    remove_copies(service)


def damage_all(service: Service) -> None:
    """While it runs: random bytes, all over the file and its log; then it is killed."""
    chance = random.Random(4)
    for path in (service.state_dir / "state.db", service.state_dir / "state.db-wal"):
        with path.open("r+b") as file:
            for offset in range(0, path.stat().st_size, 64):
                file.seek(offset)
                file.write(chance.randbytes(32))
    remove_copies(service)
    service.kill_supervisor()
    # What it had not written again by then is what this is about.
    for path in (service.run_dir / "devices").glob("*/row.json"):
        path.unlink()


def pids(service: Service) -> dict[str, int]:
    return {name: service.worker_pid(name) for name in NAMES}


def rebuilt(service: Service) -> dict[str, str]:
    problems = service.call("status")["problems"]
    return {p["device"]: p["what"] for p in problems if "made anew" in p["what"]}


@pytest.mark.parametrize("lose", [lose_all, damage_all])
def test_workers_that_serve_are_adopted_under_load(
    load_service: Service, image: Path, lose: Callable[[Service], None]
) -> None:
    service = load_service
    for name in NAMES:
        create(service, image, name)
    before, serving = facts(service), pids(service)
    lose(service)
    service.start()
    eventually(lambda: facts(service) == before, 60)
    assert pids(service) == serving
    if lose is lose_all:
        told = rebuilt(service)
        assert all("its worker" in told[name] for name in NAMES)
    for name in NAMES:
        assert service.show(name)["generation"] == 1
        commands_go_on(service, name)
        verified(service, name)


def test_with_the_workers_dead_as_well_their_rings_are_recovered(
    load_service: Service, image: Path
) -> None:
    service = load_service
    for name in NAMES:
        create(service, image, name)
        commands_go_on(service, name)
    before, serving = facts(service), pids(service)
    lose_all(service)
    for pid in serving.values():
        os.kill(pid, signal.SIGKILL)
    service.start()
    eventually(lambda: facts(service) == before, 90)
    for name in NAMES:
        eventually(lambda name=name: is_served_by_another(service, serving[name], name), 60)  # type: ignore[misc]
        assert "its ring" in rebuilt(service)[name]
        assert service.show(name)["resets"] == 0, "recovered by its journal"
        commands_go_on(service, name)
        verified(service, name)


class Writer:
    """Writes blocks of a device and reads them back, past the page cache."""

    def __init__(self, node: str) -> None:
        self.rounds = 0
        self.errors: list[str] = []
        self._fd = os.open(node, os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        page = mmap.mmap(-1, BLOCK)
        while not self._stop.is_set():
            offset = self.rounds % 256 * BLOCK
            pattern = self.rounds.to_bytes(8, "little") * (BLOCK // 8)
            try:
                page[:] = pattern
                os.pwritev(self._fd, [page], offset)
                page[:] = bytes(BLOCK)
                os.preadv(self._fd, [page], offset)
            except OSError as error:
                self.errors.append(str(error))
                return
            if page[:] != pattern:
                self.errors.append(f"round {self.rounds} came back wrong")
            self.rounds += 1

    def goes_on(self) -> None:
        before = self.rounds
        eventually(lambda: self.rounds > before or self.errors, 60)

    def end(self) -> None:
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive(), "a write hangs"
        os.close(self._fd)


@contextmanager
def writing(node: str) -> Iterator[Writer]:
    writer = Writer(node)
    try:
        yield writer
    finally:
        writer.end()
    assert writer.errors == []


@pytest.mark.host
@pytest.mark.parametrize("is_served", [True, False], ids=["served", "not served"])
def test_a_block_device_that_is_written_goes_on(
    fuse_service: Service, image: Path, is_served: bool
) -> None:
    service = fuse_service
    create(service, image)
    before = facts(service)
    pid = service.worker_pid("a")
    with writing(service.show("a")["block_device"]) as writer:
        writer.goes_on()
        lose_all(service)
        if not is_served:
            os.kill(pid, signal.SIGKILL)
        service.start()
        eventually(lambda: facts(service) == before, 90)
        writer.goes_on()
        assert (service.worker_pid("a") == pid) == is_served
    service.call("device", "remove", "a")
