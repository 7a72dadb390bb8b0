"""A worker as the supervisor starts and asks it, for checks: by command line and control socket."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from obdsup.errors import error_from_json
from obdsup.state import messages
from obdsup.supervisor.provider.base import DeviceGeometry, RingHandle

__all__ = ["RealWorker", "open_journal"]

_START_S = 60.0
_ANSWER_S = 60.0


class RealWorker:
    """One worker process; ``kill`` or ``close`` ends it."""

    def __init__(self, folder: Path, worker_id: str) -> None:
        self._log = folder / f"{worker_id}.log"
        path = folder / f"{worker_id}.sock"
        self._child = subprocess.Popen(
            [
                sys.executable, "-m", "obdsup.worker", "--id", worker_id,
                "--socket", str(path), "--log", str(self._log),
            ],
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        self._number = 0
        self._socket = self._connect(path)

    def _connect(self, path: Path) -> socket.socket:
        deadline = time.monotonic() + _START_S
        while True:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            connection.settimeout(_ANSWER_S)
            try:
                connection.connect(str(path))
            except OSError:
                connection.close()
                assert self._child.poll() is None, f"worker ended: {self.log_text()}"
                assert time.monotonic() < deadline, f"worker not up: {self.log_text()}"
                time.sleep(0.01)
            else:
                return connection

    @property
    def pid(self) -> int:
        return self._child.pid

    def log_text(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def call(self, op: str, fds: list[int] | None = None, **fields: object) -> dict[str, Any]:
        """One request and its answer; raises what the worker answered."""
        self._number += 1
        messages.send(self._socket, {"id": self._number, "op": op, **fields}, fds)
        packet = messages.receive(self._socket)
        assert packet is not None, f"worker closed the connection: {self.log_text()}"
        packet.close_fds()
        if not packet.body["ok"]:
            raise error_from_json(packet.body["error"])
        return packet.body

    def prewarm(self, device: str, image: dict[str, Any]) -> None:
        self.call("prewarm", device=device, image=image)

    def serve(
        self,
        geometry: DeviceGeometry,
        image: dict[str, Any],
        handle: RingHandle,
        journal_fd: int,
        generation: int,
        mode: str,
    ) -> dict[str, Any]:
        """``mode`` "fresh" or "recover"."""
        return self.call(
            "serve",
            [*handle.fds, journal_fd],
            device=geometry.name,
            uuid=geometry.uuid,
            image=image,
            generation=generation,
            mode=mode,
            boot_id=Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            ring={"kind": handle.kind, "map_bytes": handle.map_bytes},
        )

    def kill(self) -> None:
        """SIGKILL; returns when it is dead."""
        self._socket.close()
        self._child.kill()
        self._child.wait()

    def close(self) -> None:
        """Ends it if it still runs."""
        if self._child.poll() is None:
            self.kill()


def open_journal(path: Path) -> int:
    """An empty journal file for a worker to set up; the caller owns the fd."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
