"""Checks the writable layers of a crash state: opened by our code, compared with the ledger."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from chaos.power.file_load import file_content
from chaos.power.ledger import Acknowledged
from chaos.power.stamps import SECTOR_BYTES, SectorHistory, Verdict, read_stamp
from chaos.rig.problem import RigError, run

__all__ = ["ImageCheck", "Opened", "check_disk", "check_files", "judge_file"]

_E2FSCK_REPAIRED = 1


@dataclass(slots=True)
class Opened:
    """What opening a layer said; ``failure`` is why it could not be opened."""

    torn_bytes_cut: int = 0
    failure: str = ""
    disk: Path = field(default_factory=Path)


class ImageCheck:
    """Opens a pair as a worker does.

    Args:
        program: native/tests/prog_upper.c, built.
        scratch: a folder for copies of disks.
    """

    def __init__(self, program: Path, scratch: Path) -> None:
        self._program = program
        self._scratch = scratch

    def open(self, layers: Path, name: str) -> Opened:
        """Becomes the writer, copies the disk out, writes and reads one sector."""
        disk = self._scratch / f"{name}.disk"
        pair = [layers / f"{name}.data", layers / f"{name}.index"]
        try:
            said = run([self._program, "open", *pair, disk], what=f"open the layer of {name}")
        except RigError as error:
            return Opened(failure=str(error))
        return Opened(int(json.loads(said)["torn_bytes_cut"]), "", disk)


def check_disk(disk: Path, history: SectorHistory, acknowledged: Acknowledged) -> Verdict:
    """The raw device against its history."""
    return history.judge(disk.read_bytes(), acknowledged.durable)


def check_files(disk: Path, acknowledged: Acknowledged, scratch: Path) -> tuple[Verdict, str]:
    """The inner ext4: its journal is replayed, then it must be clean and hold what was fsynced.

    Returns the verdict over the files and what e2fsck found wrong, or "".
    """
    verdict = Verdict()
    if not acknowledged.files:
        return verdict, ""  # nothing of it was promised yet
    try:
        run(["e2fsck", "-p", disk], what="replay the inner journal", ok=(0, _E2FSCK_REPAIRED))
        run(["e2fsck", "-f", "-n", disk], what="check the inner ext4")
    except RigError as error:
        return verdict, str(error)
    target = scratch / "files"
    target.mkdir(exist_ok=True)
    for name, generation in acknowledged.files.items():
        copy = target / name
        copy.unlink(missing_ok=True)
        run(["debugfs", "-R", f"dump /{name} {copy}", disk], what=f"read {name}")
        judge_file(name, generation, copy.read_bytes() if copy.exists() else b"", verdict)
    return verdict, ""


def judge_file(name: str, generation: int, content: bytes, verdict: Verdict) -> None:
    """A file must be whole, of one generation, and not of one before ``generation``."""
    verdict.checked += 1
    stamp = read_stamp(content[:SECTOR_BYTES]) if content else None
    number = int(name[1:])
    if stamp is None or content != file_content(number, stamp[1], len(content) // SECTOR_BYTES):
        verdict.corrupt.append(f"file {name}: {len(content)} bytes, not what was ever written")
    elif stamp[1] < generation:
        verdict.lost.append(f"file {name}: generation {stamp[1]}, not {generation} or later")
