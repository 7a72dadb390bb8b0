"""The workload: the load program on a raw device."""

from __future__ import annotations

import os
from collections.abc import Sequence

from chaos.rig.latency import LatencySlice
from chaos.rig.problem import RigError
from chaos.workloads.base import Findings
from chaos.workloads.fio.load import CHUNKS
from chaos.workloads.ground import Ground
from chaos.workloads.program import LoadProgram

__all__ = ["Fio"]

SIZE_BYTES = 32 << 20
SLOW_SIZE_BYTES = 4 << 20  # where operations have pauses, laps are short too
CHUNK_MULTIPLE_BYTES = 64 * 1024
VERIFY_FACTOR = 10
# The load pauses between laps, not operations: fio keeps 16 of them in flight.


class Fio:
    """fio over the first MiB of the device; whatever was there is overwritten."""

    name = "fio"

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._program: LoadProgram | None = None

    def start(self) -> None:
        ground = self._ground
        wanted_bytes = SLOW_SIZE_BYTES if ground.pause_s else SIZE_BYTES
        multiple_bytes = CHUNKS * CHUNK_MULTIPLE_BYTES
        size_bytes = min(wanted_bytes, _size_bytes(ground)) // multiple_bytes * multiple_bytes
        if not size_bytes:
            raise RigError(f"{ground.device} is smaller than {multiple_bytes} bytes: no room")
        arguments = {
            "device": str(ground.device),
            "size_bytes": size_bytes,
            "seed": ground.seed,
            "pause_s": ground.pause_s,
        }
        folder = ground.scratch / self.name
        self._program = LoadProgram(__package__, folder, arguments, ground.patience_s)
        self._program.start()

    def operations(self) -> int:
        return self._program.operations() if self._program else 0

    def slices(self) -> Sequence[LatencySlice]:
        return self._program.slices() if self._program else []

    def stop(self) -> None:
        if self._program:
            self._program.stop()

    def verify(self) -> Findings:
        if self._program is None:
            raise RigError("fio was not started")
        self._program.stop()
        self._program.verify(self._ground.patience_s * VERIFY_FACTOR)
        return self._program.findings()

    def close(self) -> None:
        if self._program:
            self._program.close()


def _size_bytes(ground: Ground) -> int:
    try:
        with ground.device.open("rb") as file:
            return file.seek(0, os.SEEK_END)
    except OSError as error:
        raise RigError(f"{ground.device} can not be opened: {error}") from error
