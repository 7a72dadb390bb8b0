"""Real workers die of one command: it alone fails, after as many deaths as were asked for."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chaos.rig import hooked
from chaos.rig.failpoints import Action, FailPoints
from obdsup.state import messages
from obdsup.supervisor.provider.base import DeviceGeometry
from obdsup.supervisor.provider.fuse import FuseProvider
from obdsup.supervisor.provider.ringd import Ringd
from tests.worker import worker_process
from tests.worker.worker_process import WorkerProcess

pytestmark = pytest.mark.host

DISK_BYTES = 8 << 20
BLOCK_BYTES = 4096
BLOCKS = 64
POISON = 20  # block
DEATHS = 3
UUID = "00112233-4455-6677-8899-aabbccddeeff"


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FailPoints]:
    """Failpoints of every worker started in this test."""
    page = FailPoints.create(tmp_path / "failpoints")
    inherited = worker_process.environment()
    folders = f"{hooked.build()}{os.pathsep}{inherited['PYTHONPATH']}"
    environment = {**inherited, **page.environment, "PYTHONPATH": folders, "PYTHONSAFEPATH": "1"}
    monkeypatch.setattr(worker_process, "environment", lambda: environment)
    yield page
    page.close()


def block(number: int) -> bytes:
    return bytes([number + 1]) * BLOCK_BYTES


class Readers:
    """Threads that read their blocks over and over, and look at what they get."""

    def __init__(self, fd: int, blocks: list[list[int]]) -> None:
        self._fd, self._is_ending = fd, False
        self.wrong: list[tuple[int, str]] = []
        self._threads = [
            threading.Thread(target=self._read, args=(b,), daemon=True) for b in blocks
        ]
        for thread in self._threads:
            thread.start()

    def _read(self, blocks: list[int]) -> None:
        while not self._is_ending:
            for number in blocks:
                try:
                    found = os.pread(self._fd, BLOCK_BYTES, number * BLOCK_BYTES)
                except OSError as error:
                    self.wrong.append((number, str(error)))
                else:
                    if found != block(number):
                        self.wrong.append((number, found[:4].hex()))

    def end(self) -> list[tuple[int, str]]:
        self._is_ending = True
        for thread in self._threads:
            thread.join(60)
        return self.wrong


def test_only_the_command_that_kills_workers_fails(tmp_path: Path, page: FailPoints) -> None:
    upper = (str(tmp_path / "data"), str(tmp_path / "index"))
    command = [sys.executable, "-m", "obdsup.cli", "image", "new-upper", "--size", str(DISK_BYTES)]
    subprocess.run([*command, *upper], check=True, capture_output=True)
    image: dict[str, Any] = {"lowers": [], "upper": {"data": upper[0], "index": upper[1]}}
    provider = FuseProvider(tmp_path / "rings")
    ids = provider.create(DeviceGeometry("d", "", DISK_BYTES, False, ""))
    journal_fd = os.open(tmp_path / "inflight", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    workers: list[WorkerProcess] = []

    def serve(generation: int) -> list[dict[str, Any]] | None:
        """A worker more; the predecessor died of its own fault."""
        workers.append(WorkerProcess(tmp_path, f"w{generation}"))
        ring = provider.open_ring(ids)
        with workers[-1].connect() as client:
            client.send(
                "serve",
                [*ring.fds, journal_fd],
                device="disk",
                uuid=UUID,
                boot_id=Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
                image=image,
                generation=generation,
                mode="fresh" if generation == 1 else "recover",
                ring={"kind": "memfd", "map_bytes": ring.map_bytes},
                options={"blamed": generation > 1, "poison_after": DEATHS},
            )
            packet = messages.receive(client.sock)
        if packet is None:
            return None  # it died before it could answer
        answer = worker_process.unpack(packet.body)
        found: list[dict[str, Any]] = answer["poisoned"]
        return found

    fd = -1
    try:
        assert serve(1) == []
        fd = os.open(Path(str(ids["mount"])) / "disk", os.O_RDWR)
        for number in range(BLOCKS):
            assert os.pwrite(fd, block(number), number * BLOCK_BYTES) == BLOCK_BYTES
        poisoned: list[dict[str, Any]] | None = None
        page.arm("command.run", Action.SIGSEGV, repeat=DEATHS + 1, lba=POISON * 8)
        innocent = [n for n in range(BLOCKS) if n != POISON]
        readers = Readers(fd, [innocent[i::4] for i in range(4)])
        culprit: list[OSError] = []

        def read_poison() -> None:
            try:
                os.pread(fd, BLOCK_BYTES, POISON * BLOCK_BYTES)
            except OSError as error:
                culprit.append(error)

        thread = threading.Thread(target=read_poison, daemon=True)
        thread.start()
        for generation in range(2, DEATHS + 2):
            assert workers[-1].process.wait(30) == -signal.SIGSEGV
            poisoned = serve(generation)
            assert bool(poisoned) == (generation == DEATHS + 1)
        assert poisoned is not None
        thread.join(30)
        assert readers.end() == []
        assert [error.errno for error in culprit] == [errno.EIO]
        assert [(p["lba"], p["deaths"]) for p in poisoned] == [(POISON * 8, DEATHS)]
        page.disarm()
        assert os.pread(fd, BLOCK_BYTES, POISON * BLOCK_BYTES) == block(POISON)
        assert workers[-1].process.poll() is None
    finally:
        page.disarm()
        if fd >= 0:
            os.close(fd)
        for worker in workers:
            worker.close()
        os.close(journal_fd)
        Ringd(Path(str(ids["socket"]))).stop(is_forced=True)  # whoever still reads gets an error
        provider.destroy(ids)
