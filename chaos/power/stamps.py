"""What a sector holds and may hold: stamped versions, and the versions a power cut can leave.

Version 0 is the sector as it was at the beginning, zeros. A stamp says the place and the version
sixteen times in one sector, so that a torn or mixed sector is seen.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

__all__ = ["SECTOR_BYTES", "Change", "SectorHistory", "Verdict", "read_stamp", "stamped"]

SECTOR_BYTES = 512
_STAMP = struct.Struct("<8sQQII")
_MAGIC = b"pwrstamp"
_REPEATS = SECTOR_BYTES // _STAMP.size
_ZEROS = bytes(SECTOR_BYTES)


def stamped(lba: int, sector_cnt: int, version: int) -> bytes:
    """The content of ``sector_cnt`` sectors at ``lba`` as version ``version`` has it."""
    parts = []
    for at in range(lba, lba + sector_cnt):
        mixed = (at * 2654435761 ^ version * 40503) & 0xFFFFFFFF
        parts.append(_STAMP.pack(_MAGIC, at, version, mixed, ~mixed & 0xFFFFFFFF) * _REPEATS)
    return b"".join(parts)


def read_stamp(sector: bytes) -> tuple[int, int] | None:
    """(lba, version) of a whole stamp; None for anything else."""
    magic, lba, version, _, _ = _STAMP.unpack_from(sector)
    return (lba, version) if magic == _MAGIC and sector == stamped(lba, 1, version) else None


@dataclass(frozen=True, slots=True)
class Change:
    """One acknowledged or attempted write (or discard) of a device, with its version."""

    version: int
    lba: int
    sector_cnt: int
    is_discard: bool = False


@dataclass(slots=True)
class Verdict:
    """What was found in one crash state, one line each."""

    checked: int = 0
    lost: list[str] = field(default_factory=list)
    corrupt: list[str] = field(default_factory=list)

    def add(self, other: Verdict) -> None:
        self.checked += other.checked
        self.lost += other.lost
        self.corrupt += other.corrupt


class SectorHistory:
    """All versions every sector was given, in order. Versions of one sector ascend."""

    def __init__(self, changes: Iterable[Change]) -> None:
        self._of: dict[int, list[tuple[int, bool]]] = {}
        for change in sorted(changes, key=lambda change: change.version):
            for lba in range(change.lba, change.lba + change.sector_cnt):
                self._of.setdefault(lba, []).append((change.version, change.is_discard))

    def judge(self, disk: bytes, durable: set[int]) -> Verdict:
        """Compares a whole disk with what may be there.

        A sector may hold its latest durable version or any later one; zeros count as version 0
        and as every discard.

        Args:
            disk: the device's content.
            durable: the versions that were acknowledged and then flushed before the power cut.
        """
        verdict = Verdict()
        for lba in range(len(disk) // SECTOR_BYTES):
            sector = disk[lba * SECTOR_BYTES : (lba + 1) * SECTOR_BYTES]
            versions = self._of.get(lba)
            if versions is None:
                if sector != _ZEROS:
                    verdict.corrupt.append(f"sector {lba}: never written, and not zeros")
                continue
            verdict.checked += 1
            kept = max((v for v, _ in versions if v in durable), default=0)
            allowed = {v for v, is_discard in versions if v >= kept and not is_discard}
            if sector == _ZEROS:
                is_fine = kept == 0 or any(gone for v, gone in versions if v >= kept)
                if not is_fine:
                    verdict.lost.append(f"sector {lba}: zeros, not version {kept} or later")
                continue
            stamp = read_stamp(sector)
            if stamp is None or stamp[0] != lba:
                verdict.corrupt.append(f"sector {lba}: {_told(stamp)}, not {kept} or later")
            elif stamp[1] not in allowed:
                verdict.lost.append(f"sector {lba}: version {stamp[1]}, not {kept} or later")
        return verdict


def _told(stamp: tuple[int, int] | None) -> str:
    return "no stamp" if stamp is None else f"version {stamp[1]} of sector {stamp[0]}"
