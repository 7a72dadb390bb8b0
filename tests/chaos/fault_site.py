"""A real installation with one device under a checked load: where the faults' tests inflict."""

from __future__ import annotations

import json
import mmap
import os
import random
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chaos.faults.base import Site, TargetDevice
from chaos.rig.counters import DeviceJournal
from chaos.rig.node import Node, wait_until
from tests.conftest import REPO

BLOCK_BYTES = 4096
BLOCK_CNT = 512
PATIENCE_S = 30.0
GOLDEN = REPO / "tests" / "golden" / "mini"


class BlockLoad:
    """Writes and reads single blocks of a device in one thread; ``wrong`` lists what it found."""

    def __init__(self, block_device: Path) -> None:
        self.wrong: list[str] = []
        self._fd = os.open(block_device, os.O_RDWR | os.O_DIRECT)
        self._written: dict[int, bytes] = {}
        self._is_ending = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._is_ending.set()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive(), "an operation hangs"
        os.close(self._fd)

    def _run(self) -> None:
        chance = random.Random(1)
        with mmap.mmap(-1, BLOCK_BYTES) as buffer:
            while not self._is_ending.is_set():
                try:
                    self._step(chance, buffer)
                except OSError as error:
                    self.wrong.append(str(error))
                self._is_ending.wait(0.001)

    def _step(self, chance: random.Random, buffer: mmap.mmap) -> None:
        number = chance.randrange(BLOCK_CNT)
        if number in self._written:
            os.preadv(self._fd, [buffer], number * BLOCK_BYTES)
            if buffer[:] != self._written[number]:
                self.wrong.append(f"block {number} is not what was written")
        content = chance.randbytes(16) * (BLOCK_BYTES // 16)
        buffer[:] = content
        os.pwritev(self._fd, [buffer], number * BLOCK_BYTES)
        self._written[number] = content


@contextmanager
def fault_site(provider: str) -> Iterator[Site]:
    """A site on ``provider``; at its end the load must have found nothing wrong."""
    root = Path(tempfile.mkdtemp(prefix="obdF", dir="/var/tmp"))
    run_dir = Path(tempfile.mkdtemp(prefix="obdF", dir="/dev/shm"))
    node = Node(run_dir, root / "state", provider, PATIENCE_S)
    node.start_supervisor()
    try:
        wait_until(node.is_answering, PATIENCE_S, "the supervisor answers")
        config = root / "config.v1.json"
        text = (GOLDEN / "config.m.json").read_text()
        config.write_text(text.replace("@GOLDEN@", str(GOLDEN)))
        args = ("--image", str(config), "--writable", "--size", "1G")
        row = node.obdsup("device", "create", "innocent", *args)
        wait_until(node.has_standby, PATIENCE_S, "a warm standby")
        (root / "scratch").mkdir()
        yield from _under_load(node, row, root / "scratch")
    finally:
        node.clean_up()
        shutil.rmtree(root, ignore_errors=True)


def _under_load(node: Node, row: dict[str, str], folder: Path) -> Iterator[Site]:
    block_device = Path(row["block_device"]) if node.provider == "fuse" else None
    lowers = tuple(sorted(GOLDEN.glob("m*.zstd.obd")))
    journal = DeviceJournal(node.run_dir, "innocent")
    device = TargetDevice("innocent", journal, block_device, lowers, None, None)
    load = BlockLoad(block_device) if block_device else None
    if load:
        load.start()
    try:
        yield Site(node, device, folder, PATIENCE_S)
    finally:
        if load:
            load.stop()
    node.remove_device("innocent")
    if load:
        assert load.wrong == []
    else:
        report = json.loads((node.run_dir / "rings" / "innocent.json").read_text())
        assert report["commands"] > 0
        found = {k: report[k] for k in ("errors", "lost", "stale", "misplaced", "broken")}
        assert not any(found.values()), found
