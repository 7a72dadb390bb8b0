"""Examines the crash states of one recording, one after the other, and counts what it found."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chaos.power.crash_states import CrashPoint, Replay, choose_points
from chaos.power.image_check import ImageCheck, check_disk, check_files
from chaos.power.ledger import Acknowledged, Ledger
from chaos.power.log_writes import Entry, Flag, WriteLog
from chaos.power.stamps import SectorHistory
from chaos.power.state_check import check_start, check_state
from chaos.rig.problem import RigError, run

__all__ = ["Examination", "Findings"]

_E2FSCK_REPAIRED = 1
_EACH_STARTS = 50  # a supervisor's start takes as long as ten states
SHOWN_LINES = 10


@dataclass(slots=True)
class Findings:
    """What one recording's crash states came to; each list is empty when all is well."""

    file_system: str
    seed: int
    entries: int = 0
    flushes: int = 0
    changes: int = 0
    worker_kills: int = 0
    kills_in_flight: int = 0
    points: Counter[str] = field(default_factory=Counter)
    checked: int = 0
    promised: int = 0  # durable versions, over all points
    repaired_tails: int = 0
    supervisor_starts: int = 0
    seconds: float = 0.0
    lost: list[str] = field(default_factory=list)
    corrupt: list[str] = field(default_factory=list)
    unopened: list[str] = field(default_factory=list)
    fsck: list[str] = field(default_factory=list)
    state: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        return not (self.lost or self.corrupt or self.unopened or self.fsck or self.state)

    def to_json(self) -> dict[str, Any]:
        """Counts, and the first lines of each kind."""
        kinds = ("lost", "corrupt", "unopened", "fsck", "state")
        return {
            "file_system": self.file_system,
            "seed": self.seed,
            "log_entries": self.entries,
            "flushes": self.flushes,
            "changes": self.changes,
            "worker_kills": self.worker_kills,
            "kills_in_flight": self.kills_in_flight,
            "points": dict(self.points),
            "checked": self.checked,
            "promised": self.promised,
            "repaired_tails": self.repaired_tails,
            "supervisor_starts": self.supervisor_starts,
            "seconds": round(self.seconds, 1),
            **{kind: len(getattr(self, kind)) for kind in kinds},
            "lines": {kind: getattr(self, kind)[:SHOWN_LINES] for kind in kinds},
        }


class Examination:
    """The crash states of one recording.

    Args:
        folder: holds FILE_SYSTEM.log and FILE_SYSTEM.json.
        program: prog_upper, built.
        scratch: an empty folder on a tmpfs, for three disks.
        say: prints progress.
    """

    def __init__(
        self, folder: Path, file_system: str, program: Path, scratch: Path,
        say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._ledger = Ledger.load(folder / f"{file_system}.json")
        self._log = WriteLog(str(folder / f"{file_system}.log"))
        self._entries = list(self._log.entries())
        self._scratch = scratch
        self._images = ImageCheck(program, scratch)
        self._history = SectorHistory(self._ledger.changes)
        self._say = say
        self.findings = Findings(
            file_system, self._ledger.seed, len(self._entries), _flush_cnt(self._entries),
            len(self._ledger.changes), self._ledger.worker_kills, self._ledger.kills_in_flight,
        )  # fmt: skip

    def close(self) -> None:
        self._log.close()

    def run(self, count: int, seed: int) -> Findings:
        """Examines ``count`` points.

        Raises:
            RigError: a state could not be made or mounted at all.
        """
        begun_s = time.monotonic()
        size_bytes = _disk_bytes(self._entries)
        replay = Replay(self._log, self._entries, self._scratch / "base", size_bytes)
        points = choose_points(self._entries, count, seed)
        try:
            for number, point in enumerate(points):
                self._examine(replay, point, is_started=number % _EACH_STARTS == _EACH_STARTS // 2)
                if number % 25 == 24:
                    self._say(f"  {number + 1} of {len(points)}: {_told(self.findings)}")
        finally:
            replay.close()
        self.findings.seconds = time.monotonic() - begun_s
        return self.findings

    def _examine(self, replay: Replay, point: CrashPoint, *, is_started: bool) -> None:
        # a new file each time: a loop device that is still being detached would be used again
        disk = self._scratch / f"disk-{self.findings.points.total()}"
        marks = replay.make(point, disk)
        acknowledged = Acknowledged.from_marks(marks, self._ledger)
        where = f"{point.kind.value} {point.entry_cnt}"
        found = self.findings
        found.points[point.kind.value] += 1
        found.promised += len(acknowledged.durable)
        with _mounted(disk, self._scratch / "mnt", self._ledger.file_system) as folder:
            self._check_layers(folder / "layers", acknowledged, where)
            found.state += [f"{where}: {line}" for line in check_state(
                folder / "state", acknowledged
            )]  # fmt: skip
            if is_started:
                wrong = check_start(folder / "state", self._scratch / "run")
                found.state += [f"{where}: {line}" for line in wrong]
                found.supervisor_starts += 1
        self._check_file_system(disk, where)
        disk.unlink()

    def _check_layers(self, layers: Path, acknowledged: Acknowledged, where: str) -> None:
        found = self.findings
        for name in ("disk", "files"):
            opened = self._images.open(layers, name)
            if opened.failure:
                found.unopened.append(f"{where}: {opened.failure}")
                continue
            found.repaired_tails += opened.torn_bytes_cut > 0
            if name == "disk":
                verdict = check_disk(opened.disk, self._history, acknowledged)
            else:
                verdict, wrong = check_files(opened.disk, acknowledged, self._scratch)
                found.fsck += [f"{where}: {wrong}"] if wrong else []
            found.checked += verdict.checked
            found.lost += [f"{where}: {line}" for line in verdict.lost]
            found.corrupt += [f"{where}: {line}" for line in verdict.corrupt]

    def _check_file_system(self, disk: Path, where: str) -> None:
        """The outer file system after our programs wrote to it: an unclean one proves nothing."""
        if self._ledger.file_system == "ext4":
            command = ["e2fsck", "-f", "-n", str(disk)]
        else:
            command = ["xfs_repair", "-n", "-f", str(disk)]
        try:
            run(command, what="check the outer file system")
        except RigError as error:
            self.findings.fsck.append(f"{where}: outer: {error}")


@contextlib.contextmanager
def _mounted(disk: Path, folder: Path, kind: str) -> Iterator[Path]:
    folder.mkdir(exist_ok=True)
    options = "noatime,nouuid" if kind == "xfs" else "noatime"
    device = run(["losetup", "--find", "--show", str(disk)], what="loop device for a cut disk")
    device = device.strip()
    try:
        run(["mount", "-t", kind, "-o", options, device, str(folder)], what=f"mount a cut {kind}")
        try:
            yield folder
        finally:
            run(["umount", str(folder)], what=f"unmount a cut {kind}")
    finally:
        run(["losetup", "--detach", device], what="detach a cut disk")


def _flush_cnt(entries: list[Entry]) -> int:
    return sum(1 for entry in entries if entry.flags & Flag.FLUSH)


def _disk_bytes(entries: list[Entry]) -> int:
    """Large enough for every write, in whole MiB: mkfs writes to the end of the disk."""
    end = max((e.sector + e.sector_cnt for e in entries if e.has_data), default=0)
    return -(-end * 512 // (1 << 20)) << 20


def _told(found: Findings) -> str:
    return (
        f"{found.checked} checked, {len(found.lost)} lost, {len(found.corrupt)} corrupt,"
        f" {len(found.unopened)} not opened, {found.repaired_tails} tails cut,"
        f" {len(found.fsck)} fsck, {len(found.state)} state"
    )
