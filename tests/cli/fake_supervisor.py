"""A control server with canned answers: what the command line is tested against."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path
from typing import Any


class FakeSupervisor:
    """Answers each request with the lines given for its op; keeps the requests it got."""

    def __init__(self, run_dir: Path, answers: dict[str, list[Any]]) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        self.requests: list[dict[str, Any]] = []
        self._answers = answers
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(run_dir / "obdsup.sock"))
        self._listener.listen(8)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with sock, sock.makefile("rb") as lines:
                line = lines.readline()
                if not line:
                    return
                self.requests.append(json.loads(line))
                for answer in self._answers.get(self.requests[-1]["op"], []):
                    raw = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                    sock.sendall(raw + b"\n")

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
