"""A load program that behaves as told: ``python -m tests.chaos.fake_load FOLDER ARGUMENTS``."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from chaos.workloads.load import serve
from chaos.workloads.recorder import Recorder


class FakeLoad:
    def __init__(self, manner: str, folder: Path, recorder: Recorder) -> None:
        self._manner = manner
        self._recorder = recorder
        if manner == "leave a child":
            child = subprocess.Popen(["sleep", "600"])
            (folder / "child").write_text(str(child.pid))

    def step(self) -> None:
        if self._manner == "fail":
            raise OSError(5, "Input/output error", "/device")
        if self._manner == "die":
            raise RuntimeError("a bug of the load")
        begun_ns = time.monotonic_ns()
        time.sleep(0.001)
        self._recorder.operation(begun_ns, time.monotonic_ns())

    def stop(self) -> None:
        if self._manner == "hang":
            time.sleep(600)

    def verify(self) -> None:
        self._recorder.found("stale", "as told")

    def close(self) -> None:
        pass


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    recorder = Recorder(folder)
    manner = json.loads(sys.argv[2])["manner"]
    sys.exit(serve(FakeLoad(manner, folder, recorder), recorder, 0.0))
