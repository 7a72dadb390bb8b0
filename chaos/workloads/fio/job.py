"""fio's side: job files, what fio prints, and what its latency log says (pure).

A chunk is written once from end to end in the random order that its seed gives, in blocks of 4 to
64 KiB; every 4 KiB carry a header (magic, offset, a random number of the block) and a CRC-32C. fio
itself checks magic, offset, length and CRCs, but on a pure write job not the random number: whether
a block is of this lap or an older one is checked in ``headers``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from chaos.rig.latency import Operation

__all__ = ["Chunk", "job_file", "judge", "operations", "printed_lines"]

CLOCK_MONOTONIC = 1
IO_DEPTH = 16
HEADER_INTERVAL_BYTES = 4096
GLOBAL = f"""\
[global]
ioengine=libaio
direct=1
thread
bsrange=4k-64k
iodepth={IO_DEPTH}
verify=crc32c
verify_interval={HEADER_INTERVAL_BYTES}
verify_fatal=0
verify_state_save=0
continue_on_error=all
error_dump=0
log_alternate_epoch=1
log_alternate_epoch_clock_id={CLOCK_MONOTONIC}
disable_slat=1
disable_clat=1
"""
# A log in a job with verify_only ends fio 3.33 by an assertion once it has 1024 lines: none there.
WRITE_JOB = """\
rw=randwrite
do_verify=1
verify_backlog=128
verify_backlog_batch=32
write_lat_log={log}
"""
CHECK_JOB = """\
rw=randwrite
verify_only=1
"""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of the device and the seed it was last written with."""

    offset_bytes: int
    size_bytes: int
    seed: int


def job_file(device: Path, write: Chunk | None, checks: Iterable[Chunk], log: Path) -> str:
    """A job that writes and reads back one chunk and, at the same time, reads others back."""
    jobs = []
    if write:
        jobs.append(f"[write]\n{WRITE_JOB.format(log=log)}{_place(write)}")
    for number, chunk in enumerate(checks):
        jobs.append(f"[check{number}]\n{CHECK_JOB}{_place(chunk)}")
    return GLOBAL + f"filename={device}\n" + "".join(jobs)


def _place(chunk: Chunk) -> str:
    sizes = f"offset={chunk.offset_bytes}\nsize={chunk.size_bytes}\n"
    return f"{sizes}randseed={chunk.seed}\n"


# What fio prints -> the kind of finding; the first that matches counts.
KINDS = (
    (re.compile(r"verify: bad header offset"), "misplaced"),
    (re.compile(r"verify: bad magic header 0,"), "lost"),
    (re.compile(r"verify: bad header (rand_seed|numberio)"), "stale"),
    (re.compile(r"verify: bad |crc32c: verify failed|verify failed at"), "corrupt"),
    (re.compile(r"io_u error|error=|fio: .*[Ee]rror"), "io_errors"),
)


def printed_lines(output: str) -> Iterator[str]:
    """The lines fio printed about what went wrong."""
    for line in output.splitlines():
        if line.startswith(("verify: ", "crc32c: ", "fio: ", "read: ", "meta: ", "hdr: ")):
            yield line.strip()


def judge(line: str) -> str:
    """The kind of finding a printed line is; "" for one that is none."""
    return next((kind for pattern, kind in KINDS if pattern.search(line)), "")


def operations(log: str) -> Iterator[Operation]:
    """The operations of a latency log: each line is end (ms), duration (ns), direction, size, …"""
    for line in log.splitlines():
        ended_ms, duration_ns, *_ = line.split(",")
        ended_ns = int(ended_ms) * 1_000_000
        yield Operation(ended_ns - int(duration_ns), ended_ns)
