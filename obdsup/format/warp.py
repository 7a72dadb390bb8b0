"""turboOCI ("warp") layers: file system metadata here, file contents in the layer's own tar.

A sealed layer whose index tells two kinds of extents apart by their tag:

| tag | moffset counts sectors of                               |
|-----|---------------------------------------------------------|
| 0   | this file, as in any layer                              |
| 1   | the target: the uncompressed tar, from its first byte   |

Only the config names the target, so that the file alone can not be read. The reference takes the
smallest tag found for 0, so that it misreads a layer without metadata; here a tag is what it says.
Source: overlaybd-formats 1.9, 4.3.
"""

from __future__ import annotations

from obdsup.errors import FormatError
from obdsup.format import lsmt_index
from obdsup.format.blob import Blob, FileBlob, SliceBlob
from obdsup.format.gzip_index import GzipBlob, GzipIndex
from obdsup.format.lsmt_index import Segment
from obdsup.format.sealed import SealedLayer
from obdsup.format.units import SECTOR_BYTES, Sectors

__all__ = ["REMOTE_SECTOR", "WarpLayer", "is_gzip", "open_target"]

# Added to the moffset of a remote extent in memory: no file has that many sectors.
REMOTE_SECTOR = 1 << 54


def is_gzip(blob: Blob) -> bool:
    """By its first bytes."""
    return blob.size >= 2 and blob.read_at(0, 2) == b"\x1f\x8b"


def open_target(path: str, gzip_index: str = "") -> Blob:
    """The uncompressed tar that a warp layer points into.

    Raises:
        ConfigError: a file can not be opened.
        FormatError: the index is damaged, of another file, or missing for a tar.gz.
    """
    blob: Blob = FileBlob(path)
    try:
        if gzip_index:
            return GzipBlob(blob, GzipIndex(FileBlob(gzip_index), blob.size))
        if is_gzip(blob):
            raise FormatError(
                path, 0, "a tar", "gzip", field="target",
                hint="name its gzipIndex; obdsup image gzip-index makes one",
            )  # fmt: skip
        # what does not fill a sector at the end can not be named by an extent
        return SliceBlob(blob, 0, blob.size)
    except BaseException:
        blob.close()
        raise


class WarpLayer(SealedLayer):
    """A layer of metadata with its target. Owns both blobs.

    ``segments``: the moffset of a remote extent is its sector in the target + ``REMOTE_SECTOR``.
    """

    def __init__(self, blob: Blob, target: Blob) -> None:
        """Takes both over.

        Raises:
            FormatError: as of ``SealedLayer``; an extent beyond the target's end; an unknown tag.
        """
        self.target = target
        super().__init__(blob)

    def _decode(self, raw: bytes, begin: int) -> list[Segment]:
        segments: list[Segment] = []
        ends = {0: begin // SECTOR_BYTES, 1: self.target.size // SECTOR_BYTES}
        reached = 0
        for position, segment in lsmt_index.decode(raw):
            at = begin + position * lsmt_index.ENTRY_BYTES
            field = f"index entry {position}"
            if segment.tag not in ends:
                raise FormatError(self.path, at + 15, "tag 0 or 1", segment.tag, field=field)
            first = lsmt_index.PAYLOAD_SECTOR if segment.tag == 0 else 0
            problem = lsmt_index.problem_of(segment, ends[segment.tag], first)
            if problem is None and segment.offset < reached:
                problem = f"sorted, disjoint entries from sector {reached} on", str(segment.offset)
            if problem is not None:
                raise FormatError(self.path, at, *problem, field=field)
            reached = segment.end
            if segment.tag:
                segment = segment._replace(moffset=Sectors(segment.moffset + REMOTE_SECTOR))
            segments.append(segment)
        return segments

    def read_payload(self, moffset: int, length: int) -> bytes:
        if moffset < REMOTE_SECTOR:
            return super().read_payload(moffset, length)
        begin = (moffset - REMOTE_SECTOR) * SECTOR_BYTES
        return self.target.read_at(begin, length * SECTOR_BYTES)

    def close(self) -> None:
        super().close()
        self.target.close()
