"""Reads every block of every layer and says which are damaged, and what they cost."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from obdsup.errors import FormatError, ObdError
from obdsup.format.config import ImageConfig, Lower
from obdsup.format.layer import LayerFile, open_layer
from obdsup.format.lsmt_index import Segment
from obdsup.format.units import SECTOR_BYTES
from obdsup.format.upper import open_upper
from obdsup.image.long_call import Report
from obdsup.image.zfile import check_zfile

__all__ = ["Damage", "Verified", "verify_image"]

_PIECE_SECTORS = 2048
_MAX_KEPT = 1000


@dataclass(frozen=True)
class Damage:
    """One damaged place.

    Attributes:
        layer: counts from the bottom, the upper is the last.
        disk_ranges: what the layer maps there, bytes [begin, end) of the virtual disk; layers above
            may hide it. Empty when no part of the disk depends on it, or nobody knows.
    """

    layer: int
    error: ObdError
    disk_ranges: list[tuple[int, int]]


@dataclass(frozen=True)
class Verified:
    """What was read, and the first of the damages."""

    block_cnt: int
    bytes: int
    torn_tail_bytes: int
    damage_cnt: int
    damages: list[Damage]


class _Progress:
    """One line for many steps, each of which reports for itself."""

    def __init__(self, report: Report | None, total: int) -> None:
        self._report, self._total, self._before = report, total, 0

    def step(self, done: int, total: int) -> None:
        if self._report is not None:
            self._report(min(self._before + done, self._total), self._total)

    def finished(self, size: int) -> None:
        self._before += size
        self.step(0, 0)


def _mapped_ranges(
    segments: list[Segment], begin_byte: int, end_byte: int
) -> list[tuple[int, int]]:
    """Where on the disk bytes [begin, end) of the layer show."""
    found: list[tuple[int, int]] = []
    begin, end = begin_byte // SECTOR_BYTES, -(-end_byte // SECTOR_BYTES)
    for segment in segments:
        if segment.is_zeroed or segment.moffset >= end or segment.file_end <= begin:
            continue
        first = segment.offset + max(0, begin - segment.moffset)
        last = segment.offset + min(segment.length, end - segment.moffset)
        if found and found[-1][1] == first * SECTOR_BYTES:
            found[-1] = (found[-1][0], last * SECTOR_BYTES)
        else:
            found.append((first * SECTOR_BYTES, last * SECTOR_BYTES))
    return found


def _read_all(
    read: object, segments: list[Segment], progress: _Progress
) -> Iterator[tuple[ObdError, Segment]]:
    done = 0
    for segment in segments:
        for at in range(0, 0 if segment.is_zeroed else segment.length, _PIECE_SECTORS):
            length = min(_PIECE_SECTORS, segment.length - at)
            try:
                read(segment.moffset + at, length)  # type: ignore[operator]
            except ObdError as error:
                piece = segment.clipped(segment.offset + at, segment.offset + at + length)
                yield error, piece
            done += length * SECTOR_BYTES
            progress.step(done, 0)


def _segment_damage(layer: int, error: ObdError, segment: Segment) -> Damage:
    at = (segment.offset * SECTOR_BYTES, segment.end * SECTOR_BYTES)
    return Damage(layer, error, [at])


def _lower_damages(
    position: int, named: Lower, opened: LayerFile, progress: _Progress
) -> tuple[int, int, list[Damage]]:
    """(blocks, damages, the first of them)."""
    segments = opened.layer.segments
    if opened.zfile is None or named.target:
        found = [
            _segment_damage(position, error, piece)
            for error, piece in _read_all(opened.layer.read_payload, segments, progress)
        ]
        return len(segments), len(found), found
    checked = check_zfile(named.path, report=progress.step)
    block = opened.zfile.header.block_bytes
    found = [
        Damage(position, error, _mapped_ranges(segments, offset, offset + block))
        for offset, error in checked.damages
    ]
    return checked.block_cnt, checked.damage_cnt, found


def verify_image(image: ImageConfig, report: Report | None = None) -> Verified:
    """Reads every block of every layer, those too that no read of the disk would reach.

    A layer that can not be opened at all is one damage. Compressed layers have a checksum for each
    block; of others only what can not be read is found, for the format has none.

    Raises:
        ConfigError: a file is missing.
        KeyboardInterrupt: as usual.
    """
    paths = [lower.path for lower in image.lowers]
    sizes = [os.path.getsize(path) for path in [*paths, *(image.upper or ())[:1]]]
    progress = _Progress(report, sum(sizes))
    blocks = count = torn = 0
    damages: list[Damage] = []
    for position, named in enumerate(image.lowers):
        try:
            opened = open_layer(named.path, named.target, named.gzip_index)
        except FormatError as error:
            damages.append(Damage(position, error, []))
            count += 1
            continue
        try:
            block_cnt, damage_cnt, found = _lower_damages(position, named, opened, progress)
        finally:
            opened.close()
        blocks, count = blocks + block_cnt, count + damage_cnt
        damages += found[: max(0, _MAX_KEPT - len(damages))]
        progress.finished(sizes[position])
    if image.upper is not None:
        position = len(image.lowers)
        try:
            upper = open_upper(*image.upper)
        except FormatError as error:
            return Verified(
                blocks, sum(sizes), 0, count + 1, [*damages, Damage(position, error, [])]
            )
        try:
            segments = list(upper.map)
            found = [
                _segment_damage(position, error, piece)
                for error, piece in _read_all(upper.read_payload, segments, progress)
            ]
            torn = upper.torn_bytes
        finally:
            upper.close()
        blocks, count = blocks + len(segments), count + len(found)
        damages += found[: max(0, _MAX_KEPT - len(damages))]
    return Verified(blocks, sum(sizes), torn, count, damages)
