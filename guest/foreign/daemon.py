"""Stands in for overlaybd-tcmu: takes a device's ring as that one does at its start, and serves it.

``python -m guest.foreign.daemon HBA DEVICE BACKING [--hold-writes] [--wait]``. With
``--hold-writes`` the first write, and all that comes after it, stays in flight until it is killed;
with ``--no-name`` it is not taken for overlaybd-tcmu; with ``--wait`` it says "running" and waits
until the device is made.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

from guest.foreign.server import FakeServer

_NAME = "overlaybd-tcmu"
_WRITES = (0x2A, 0x8A)


class FakeTcmuDaemon(FakeServer):
    """Resets the ring like the real one: block_dev, reset_ring, open, unblock."""

    def __init__(self, hba: str, device: str, backing: str, *, is_holding: bool) -> None:
        uio = find_uio(hba, device)
        action = Path(f"/sys/kernel/config/target/core/user_{hba}/{device}/action")
        (action / "block_dev").write_text("1")
        (action / "reset_ring").write_text("1")
        map_bytes = int((uio / "maps" / "map0" / "size").read_text(), 16)
        fd = os.open(f"/dev/{uio.name}", os.O_RDWR)
        super().__init__("uio", [fd], map_bytes, backing)
        self._is_holding = is_holding
        (action / "block_dev").write_text("0")

    def _execute(self, cdb: bytes, iov: list[tuple[int, int]]) -> tuple[int, bytes]:
        if self._is_holding and cdb[0] in _WRITES:
            print("holding", flush=True)
            while True:
                signal.pause()
        return super()._execute(cdb, iov)


def find_uio(hba: str, device: str) -> Path:
    """The ring's place in sysfs; waits for it."""
    while True:
        for path in Path("/sys/class/uio").glob("uio*"):
            with contextlib.suppress(OSError):  # one that goes away just now
                if (path / "name").read_text().startswith(f"tcm-user/{hba}/{device}/"):
                    return path
        time.sleep(0.02)


if __name__ == "__main__":
    if "--no-name" not in sys.argv:
        Path("/proc/self/comm").write_text(_NAME)
    if "--wait" in sys.argv:
        print("running", flush=True)
    daemon = FakeTcmuDaemon(*sys.argv[1:4], is_holding="--hold-writes" in sys.argv)
    print("ready", flush=True)
    daemon.serve()
