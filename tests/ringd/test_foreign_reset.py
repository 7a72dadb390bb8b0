"""Somebody else resets a ring under verified load: the worker notices, and nothing is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from obdsup.state.journal import JournalReader
from tests.conftest import eventually
from tests.ringd.ring import DISK_BYTES, LoadRing
from tests.worker.worker_process import WorkerProcess

pytestmark = pytest.mark.integration

RESETS = 10
UUID = "00112233-4455-6677-8899-aabbccddeeff"


def has_completed(journal: JournalReader, commands: int) -> bool:
    return journal.counters().completed > commands


def has_noticed(journal: JournalReader, resets: int) -> bool:
    return journal.counters().foreign_resets == resets


def test_a_worker_goes_on_from_a_ring_that_others_reset(tmp_path: Path) -> None:
    upper = {"data": str(tmp_path / "data"), "index": str(tmp_path / "index")}
    command = [sys.executable, "-m", "obdsup.cli", "image", "new-upper", "--size", str(DISK_BYTES)]
    subprocess.run([*command, *upper.values()], check=True, capture_output=True)
    worker = WorkerProcess(tmp_path)
    ring = LoadRing(tmp_path, "--qd", "16", "--max-sectors", "8")
    journal_fd = os.open(tmp_path / "inflight", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        opened = ring.ringd.open_ring()
        with worker.connect() as client:
            client.call(
                "serve",
                [*opened.fds, journal_fd],
                device="disk",
                uuid=UUID,
                boot_id=Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
                image={"lowers": [], "upper": upper},
                generation=1,
                mode="fresh",
                ring={"kind": "memfd", "map_bytes": opened.map_bytes},
            )
        journal = JournalReader(journal_fd)
        for count in range(1, RESETS + 1):
            before = journal.counters().completed
            eventually(partial(has_completed, journal, before + 500), 30)
            ring.ringd.reset()
            eventually(partial(has_noticed, journal, count), 30)
        report = ring.finish()
        assert report["good"]
        assert (report["errors"], report["resets"]) == (0, RESETS)
        assert worker.process.poll() is None
        assert journal.counters().owner_generation == 1
    finally:
        ring.close()
        worker.close()
        os.close(journal_fd)
