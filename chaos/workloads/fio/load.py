"""The load: laps over the chunks of the device, each lap one run of fio."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Sequence
from pathlib import Path

from chaos.workloads.fio.headers import older_blocks, read_numbers
from chaos.workloads.fio.job import Chunk, job_file, judge, operations, printed_lines
from chaos.workloads.recorder import Recorder

__all__ = ["FioLoad"]

FIRST_LAP_BYTES = 256 * 1024  # so that the first answer comes soon
CHUNKS = 8


class FioLoad:
    """Writes one chunk per step and checks it and an older one.

    Args:
        size_bytes: of the part of the device that is used, from its beginning.
        folder: of the job files and logs; not on the device.
    """

    def __init__(
        self, device: Path, size_bytes: int, seed: int, folder: Path, recorder: Recorder
    ) -> None:
        self._device = device
        self._chunk_bytes = size_bytes // CHUNKS
        self._folder = folder
        self._recorder = recorder
        self._random = random.Random(f"{seed}/fio")
        self._lap = 0
        self._written: dict[int, Chunk] = {}  # by offset
        self._numbers: dict[int, Sequence[int]] = {}  # what their headers hold

    def step(self) -> None:
        offset_bytes = self._lap % CHUNKS * self._chunk_bytes
        size_bytes = self._chunk_bytes if self._lap else min(self._chunk_bytes, FIRST_LAP_BYTES)
        chunk = Chunk(offset_bytes, size_bytes, self._random.randrange(1, 1 << 31))
        others = [other for other in self._written.values() if other.offset_bytes != offset_bytes]
        checked = [self._random.choice(others)] if others else []
        self._lap += 1
        before = self._numbers.pop(offset_bytes, ())
        self._written.pop(offset_bytes, None)
        self._run(chunk, checked)
        self._written[offset_bytes] = chunk
        after = read_numbers(self._device, chunk)
        self._numbers[offset_bytes] = after
        # A number that was here before the chunk was written anew is a block that came back.
        kept = [i for i, (old, new) in enumerate(zip(before, after, strict=False)) if old == new]
        self._note_stale(chunk, [index for index in kept if after[index]])
        for other in checked:
            self._check_numbers(other)

    def stop(self) -> None:
        """Nothing is under way between two laps."""

    def verify(self) -> None:
        chunks = list(self._written.values())
        self._run(None, chunks)
        for chunk in chunks:
            self._check_numbers(chunk)

    def close(self) -> None:
        """Nothing was started that outlives a lap."""

    def _check_numbers(self, chunk: Chunk) -> None:
        found = read_numbers(self._device, chunk)
        self._note_stale(chunk, older_blocks(found, self._numbers[chunk.offset_bytes]))

    def _note_stale(self, chunk: Chunk, blocks: Sequence[int]) -> None:
        for block in blocks:
            place = chunk.offset_bytes + block * 4096
            self._recorder.found("stale", f"fio: byte {place} holds a block of an earlier lap")

    def _run(self, write: Chunk | None, checks: Sequence[Chunk]) -> None:
        job, log = self._folder / "job.fio", self._folder / "lap"
        job.write_text(job_file(self._device, write, checks, log))
        done = subprocess.run(
            ["fio", "--output-format=terse", str(job)],
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        found_cnt = self._recorder.finding_cnt
        for line in printed_lines(done.stdout):
            if kind := judge(line):
                self._recorder.found(kind, f"fio: {line}")
        if done.returncode and self._recorder.finding_cnt == found_cnt:
            raise OSError(f"fio ended with {done.returncode}: {done.stdout.strip()[-500:]}")
        latencies = self._folder / "lap_lat.1.log"
        if write and latencies.is_file():
            for begun_ns, ended_ns in operations(latencies.read_text()):
                self._recorder.operation(begun_ns, ended_ns)
            latencies.unlink()
