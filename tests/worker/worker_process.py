"""A worker process and its control connection, for tests."""

from __future__ import annotations

import array
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from obdsup.errors import ObdError, error_from_json
from obdsup.state import messages
from tests.conftest import eventually
from tests.worker.fake_ring import MAP_BYTES, FakeRing


class Client:
    """One control connection; ``call`` raises what the worker answered."""

    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(30)
        try:
            self.sock.connect(str(path))
        except OSError:
            self.sock.close()
            raise
        self._number = 0

    def send(self, op: str, fds: list[int] | None = None, **fields: object) -> int:
        self._number += 1
        messages.send(self.sock, {"id": self._number, "op": op, **fields}, fds)
        return self._number

    def receive(self) -> messages.Packet:
        packet = messages.receive(self.sock)
        assert packet is not None, "the worker closed the connection"
        return packet

    def call(self, op: str, fds: list[int] | None = None, **fields: object) -> dict[str, Any]:
        number = self.send(op, fds, **fields)
        packet = self.receive()
        packet.close_fds()
        assert packet.body["id"] == number
        return unpack(packet.body)

    def send_raw(self, data: bytes, fds: list[int] | None = None) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.sock.sendmsg([data], rights)

    def serve(
        self,
        ring: FakeRing,
        image: dict[str, Any],
        generation: int,
        mode: str = "fresh",
        **more: Any,
    ) -> dict[str, Any]:
        return self.call("serve", ring.fds, **serve_fields(ring, image, generation, mode) | more)

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def unpack(body: dict[str, Any]) -> dict[str, Any]:
    """The answer, or raises the error it carries."""
    if body["ok"]:
        return body
    raise error_from_json(body["error"])


def error_of(body: dict[str, Any]) -> ObdError:
    assert body["ok"] is False
    return error_from_json(body["error"])


def serve_fields(
    ring: FakeRing, image: dict[str, Any], generation: int, mode: str = "fresh"
) -> dict[str, Any]:
    return {
        "device": ring.name,
        "uuid": ring.uuid,
        "image": image,
        "generation": generation,
        "mode": mode,
        "boot_id": ring.boot_id,
        "ring": {"kind": "memfd", "map_bytes": MAP_BYTES},
    }


PROGRAM = (sys.executable, "-m", "obdsup.worker")
# -S: as the worker starts itself anew; a program of ours can not be started anew by module name
SLOW_PROGRAM = (sys.executable, "-S", str(Path(__file__).parent / "fake_slow_worker.py"))


def environment() -> dict[str, str]:
    """Imports as in this process, also with ``-S``."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


class WorkerProcess:
    """Started by its command line, as the supervisor does; ``close`` ends it by pid."""

    def __init__(
        self, directory: Path, worker_id: str = "w1", program: tuple[str, ...] = PROGRAM
    ) -> None:
        self.path = directory / f"{worker_id}.sock"
        self.log_path = directory / f"{worker_id}.log"
        command = [*program, "--id", worker_id]
        command += ["--socket", str(self.path), "--log", str(self.log_path)]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment())
        eventually(self._is_listening, 30)

    def _is_listening(self) -> bool:
        assert self.process.poll() is None, f"worker ended: {self.log_text()}"
        if not self.path.exists():
            return False
        try:
            self.connect().close()
        except OSError:
            return False
        return True

    def log_text(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def connect(self) -> Client:
        return Client(self.path)

    @property
    def pid(self) -> int:
        return self.process.pid

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)

    def close(self) -> None:
        if self.process.poll() is None:
            self.kill()

    def private_kib(self) -> int:
        """Private memory, clean and dirty."""
        rows = Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines()
        return sum(
            int(r.split()[1]) for r in rows if r.startswith(("Private_Clean", "Private_Dirty"))
        )


def image_of(config: Path, vectors: Path) -> dict[str, Any]:
    """The ``image`` of a request for a config of the vectors."""
    text = config.read_text().replace("@VECTORS@", str(vectors))
    body = json.loads(text)
    upper = body.get("upper")
    return {
        "lowers": [lower["file"] for lower in body["lowers"]],
        "upper": {"data": upper["data"], "index": upper["index"]} if upper else None,
    }


def run_as_nobody(function: Any) -> int:
    """Runs function() in a forked child with uid 65534; its exit status (function's int)."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            code = int(function())
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
