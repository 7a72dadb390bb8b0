"""Does an acknowledged flush survive a power cut? A disk whose platter can be looked at says so.

The writable layer lies on an ext4 of its own, on a loop device over a file: what ext4 has not sent
to its disk is not in that file. A copy of the file, made while the load stands still, is the disk
as a power cut would have left it. It is repaired as a host would at its next start, and every index
record that was in the file before a flush began, with the data it names, must be there.
"""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from chaos.planted.bugs import Bug
from chaos.planted.rig import PlantedRig
from chaos.planted.trial import Verdict
from chaos.rig.node import wait_until
from chaos.rig.problem import RigError, run
from chaos.rig.process import Process
from obdsup.state.journal import JournalReader

__all__ = ["run_power_cuts"]

DISK_BYTES = 512 << 20
CUTS = 3
KIND = "lost after a power cut"
QUEUE_DEPTH = 2
_LOAD = (
    f"--qd {QUEUE_DEPTH} --read-percent 40 --flush-percent 20 --discard-percent 0"
    " --max-sectors 16 --span 4194304 --drain-seconds 10"
)
_RUN_S = 0.2
_HEADER_BYTES = 4096
_RECORD = struct.Struct("<QQ")  # overlaybd-formats 1.4
_SECTOR = 512


def run_power_cuts(bug: Bug, seed: int) -> Verdict:
    """Cuts the power CUTS times, or until something is lost.

    Raises:
        RigError: the disk, the installation or the repair of a copy did not work.
    """
    verdict = Verdict(bug, seed)
    begun_s = time.monotonic()
    with ExitStack() as stack:
        temporary = tempfile.TemporaryDirectory(prefix=f"obdsup-cut-{os.getpid()}-", dir="/dev/shm")
        folder = Path(stack.enter_context(temporary))
        mounted = _mount_disk(folder, stack)
        loaded = Bug(bug.name, bug.about, load=_LOAD)
        rig = stack.enter_context(PlantedRig(loaded, seed, upper_folder=mounted))
        for _ in range(CUTS):
            time.sleep(_RUN_S)
            lost = _cut(rig, folder)
            if lost:
                verdict.caught_by = {KIND: lost}
                break
        verdict.commands = rig.commands()
        if not verdict.caught_by:
            verdict.caught_by, lines = rig.finish()
            verdict.detail = lines[0] if lines else ""
    verdict.seconds = time.monotonic() - begun_s
    return verdict


def _mount_disk(folder: Path, stack: ExitStack) -> Path:
    image, mounted = folder / "disk", folder / "mounted"
    with image.open("wb") as file:
        file.truncate(DISK_BYTES)
    run(["mkfs.ext4", "-q", "-F", image], what="make the disk that loses power")
    mounted.mkdir()
    # Nothing is written back but what is asked for: the journal's timer would hide a missing sync.
    run(["mount", "-o", "loop,commit=300", image, mounted], what="mount the disk that loses power")
    stack.callback(run, ["umount", mounted], what="unmount the disk that lost power")
    return mounted


def _cut(rig: PlantedRig, folder: Path) -> int:
    """One power cut; how many records of before a flush are not there any more."""
    data, index = rig.upper_files(rig.devices[0])
    promised_bytes = _records_end(index)
    _wait_for_flush(rig)
    generator = Process.of(int(rig.generators[0].stat().get("pid", "0")))
    if generator is None:
        raise RigError("the load generator ended before the power cut")
    with generator.held() as send:
        send(signal.SIGSTOP)
        try:
            copy = folder / "copy"
            run(["cp", "--sparse=always", folder / "disk", copy], what="copy the cut disk")
        finally:
            send(signal.SIGCONT)
    run(["e2fsck", "-fy", copy], what="repair the cut disk", ok=(0, 1))
    return _lost(copy, data, index, promised_bytes)


def _records_end(index: Path) -> int:
    """Where the index file ends, or will end after the next flush."""
    ends = [index.stat().st_size]
    with contextlib.suppress(FileNotFoundError):
        ends.append(index.with_name(f"{index.name}.pending").stat().st_size)
    return max(ends)


def _wait_for_flush(rig: PlantedRig) -> None:
    """Returns when a flush that began after the call is done: more than can be in flight."""
    wanted = _flush_cnt(rig) + QUEUE_DEPTH + 1
    wait_until(lambda: _flush_cnt(rig) >= wanted, rig.node.patience_s, "flushes")


def _flush_cnt(rig: PlantedRig) -> int:
    path = rig.node.run_dir / "devices" / rig.devices[0] / "inflight"
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return JournalReader(fd, str(path)).counters().flush_cmds
    finally:
        os.close(fd)


def _lost(copy: Path, data: Path, index: Path, promised_bytes: int) -> int:
    """Compares the files on the cut disk with those the living system has."""
    kept_index, kept_data = _dump(copy, index.name), _dump(copy, data.name)
    promised = index.read_bytes()[_HEADER_BYTES:promised_bytes]
    kept = kept_index[_HEADER_BYTES:promised_bytes]
    with data.open("rb") as living:
        return sum(
            kept[at : at + _RECORD.size] != promised[at : at + _RECORD.size]
            or not _is_kept(promised, at, kept_data, living.fileno())
            for at in range(0, len(promised) // _RECORD.size * _RECORD.size, _RECORD.size)
        )


def _is_kept(promised: bytes, at: int, kept_data: bytes, living_fd: int) -> bool:
    place, where = _RECORD.unpack_from(promised, at)
    length = (place >> 50) * _SECTOR
    begin = (where & ((1 << 55) - 1)) * _SECTOR
    return kept_data[begin : begin + length] == os.pread(living_fd, length, begin)


def _dump(copy: Path, name: str) -> bytes:
    """A file of the copied disk; empty when it is not there."""
    out = copy.with_name(f"kept.{name}")
    out.unlink(missing_ok=True)
    run(["debugfs", "-R", f"dump /{name} {out}", copy], what=f"read {name} off the cut disk")
    return out.read_bytes() if out.is_file() else b""
