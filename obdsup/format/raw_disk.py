"""Turns a raw disk into a layer: the sectors in which it differs from what is below it.

Below is an image, or nothing (zeros). A sector that is equal stays unmapped; a sector of zeros over
something else becomes a zeroed mapping; any other is data. So that only differing sectors are kept,
the layer on top of the same image is the disk, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from obdsup.errors import ConfigError
from obdsup.format.blob import FileBlob
from obdsup.format.layer_writer import LayerWriter
from obdsup.format.stack import Stack
from obdsup.format.units import SECTOR_BYTES

__all__ = ["RawDisk"]

_WINDOW_BYTES = 1 << 20
_PAGE_BYTES = 4096


class RawDisk:
    """A raw disk file or block device; owns it."""

    def __init__(self, path: str) -> None:
        """Opens it.

        Raises:
            ConfigError: missing, not a file or device, empty, or not whole sectors.
        """
        self._blob = FileBlob(path)
        self.path = path
        self.size_bytes = self._blob.size
        if not self.size_bytes or self.size_bytes % SECTOR_BYTES:
            self._blob.close()
            raise ConfigError(
                f"{path}: expected a disk of a multiple of {SECTOR_BYTES} bytes,"
                f" found {self.size_bytes}",
                hint="truncate -s %4K rounds it up" if self.size_bytes else "",
            )

    def write_difference(
        self,
        writer: LayerWriter,
        base: Stack | None = None,
        progress: Callable[[int], None] = lambda done: None,
    ) -> None:
        """Adds every extent in which the disk differs from ``base`` (None: zeros) to ``writer``."""
        for begin, end in self._regions(base):
            for at in range(begin, end, _WINDOW_BYTES):
                length = min(_WINDOW_BYTES, end - at)
                _add_window(writer, at, self._blob.read_at(at, length), _below(base, at, length))
                progress(at + length)
        progress(self.size_bytes)

    def _regions(self, base: Stack | None) -> Iterator[tuple[int, int]]:
        """Byte ranges in which the disk or the base may hold data, in order and disjoint."""
        extents = self._blob.data_extents()
        if base is not None:
            extents += [
                (segment.offset * SECTOR_BYTES, segment.end * SECTOR_BYTES)
                for segment in base.segments(0, self.size_bytes // SECTOR_BYTES)
                if not segment.is_zeroed
            ]
        reached = 0
        for raw_begin, raw_end in sorted(extents):
            begin = max(reached, raw_begin - raw_begin % _PAGE_BYTES)
            end = min(self.size_bytes, -(-raw_end // _PAGE_BYTES) * _PAGE_BYTES)
            if begin < end:
                yield begin, end
                reached = end

    def close(self) -> None:
        """Closes the disk."""
        self._blob.close()


def _below(base: Stack | None, at: int, length: int) -> bytes:
    """What is under a window; the disk may be larger than its base."""
    inside = max(0, min(length, base.size_bytes - at)) if base is not None else 0
    below = base.read(at, inside) if base is not None and inside else b""
    return below + bytes(length - inside)


def _add_window(writer: LayerWriter, at: int, disk: bytes, below: bytes) -> None:
    if disk == below:
        return
    for begin, end, is_zeroed in _runs(disk, below):
        if is_zeroed:
            writer.add_zeros((at + begin) // SECTOR_BYTES, (end - begin) // SECTOR_BYTES)
        else:
            writer.add_data((at + begin) // SECTOR_BYTES, disk[begin:end])


def _runs(disk: bytes, below: bytes) -> Iterator[tuple[int, int, bool]]:
    """Maximal byte runs (begin, end, is zeroed) of differing sectors of one kind."""
    run_begin = run_end = 0
    run_zeroed = False
    for sector in _differing_sectors(disk, below):
        is_zeroed = not any(disk[sector : sector + SECTOR_BYTES])
        if sector != run_end or is_zeroed != run_zeroed:
            if run_begin < run_end:
                yield run_begin, run_end, run_zeroed
            run_begin, run_zeroed = sector, is_zeroed
        run_end = sector + SECTOR_BYTES
    if run_begin < run_end:
        yield run_begin, run_end, run_zeroed


def _differing_sectors(disk: bytes, below: bytes) -> Iterator[int]:
    for page in range(0, len(disk), _PAGE_BYTES):
        if disk[page : page + _PAGE_BYTES] == below[page : page + _PAGE_BYTES]:
            continue
        for sector in range(page, min(page + _PAGE_BYTES, len(disk)), SECTOR_BYTES):
            if disk[sector : sector + SECTOR_BYTES] != below[sector : sector + SECTOR_BYTES]:
                yield sector
