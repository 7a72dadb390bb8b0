"""Makes a damaged writable layer open again, and says what it cost. The originals are kept.

What can be wrong, and what is done:

| found                                                | done                               |
|------------------------------------------------------|------------------------------------|
| the header of one file is damaged                    | made again from the other's        |
| half a record at the end of the index                | dropped                            |
| records that name data the data file does not hold   | dropped: older content shows again |
| what can not be a record, with good ones behind it   | dropped, likewise                  |
| records that wait for a sync (``INDEX.pending``)     | kept: part of the new index        |
| sparse: damaged records of zeroes before good ones   | dropped: what is below shows again |

The new index is written beside the old one and takes its name at the end; before that the old one
gets a second name, INDEX.orig. The data file is changed when its header is: a copy, DATA.orig, is
made first. Killed in between, the layer is as it was, or repaired; at worst an ``.orig`` is left.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from obdsup.errors import AlreadyServed, ConfigError, FormatError, ObdError
from obdsup.format import lsmt_header, lsmt_index, zeroes
from obdsup.format.blob import Blob, FileBlob
from obdsup.format.lsmt_header import AREA_BYTES, LsmtFlags, LsmtHeader
from obdsup.format.lsmt_index import ENTRY_BYTES, Segment
from obdsup.format.pending import pending_records
from obdsup.format.sink import atomic_output
from obdsup.format.units import SECTOR_BYTES
from obdsup.format.upper import open_upper

__all__ = ["Repaired", "repair_upper"]

_KEPT_SUFFIX = ".orig"
_MAX_LISTED = 1000


@dataclass
class Repaired:
    """What was done; nothing (``is_changed`` false) when the layer was sound.

    Attributes:
        dropped: (offset in the index file, begin, end), the latter bytes of the disk whose last
            write is lost; the first of ``dropped_cnt``.
        kept: the files as they were before.
    """

    is_changed: bool = False
    record_cnt: int = 0
    dropped_cnt: int = 0
    dropped: list[tuple[int, int, int]] = field(default_factory=list)
    torn_bytes: int = 0
    headers_made: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)


def repair_upper(data_path: str, index_path: str) -> Repaired:
    """Repairs a pair in place.

    Raises:
        AlreadyServed: somebody writes to it.
        ConfigError: a file is missing, or an ``.orig`` of an earlier repair is in the way.
        FormatError: both headers are damaged, or the two are of different layers.
    """
    data, index = FileBlob(data_path), FileBlob(index_path)
    try:
        with _writer_lock(index_path):
            return _repair(data, index)
    finally:
        data.close()
        index.close()


@contextlib.contextmanager
def _writer_lock(index_path: str) -> Iterator[None]:
    """The lock that workers take: an OFD lock on the whole index file."""
    with open(index_path, "r+b") as file:
        lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        try:
            fcntl.fcntl(file.fileno(), fcntl.F_OFD_SETLK, lock)
        except BlockingIOError as error:
            raise AlreadyServed(
                f"{index_path}: in use: somebody writes to this layer",
                hint="remove its device first",
                path=index_path,
            ) from error
        yield


def _decoded(blob: Blob) -> LsmtHeader | FormatError:
    try:
        return lsmt_header.decode(blob.read_at(0, min(AREA_BYTES, blob.size)), blob.path, 0)
    except FormatError as error:
        return error


def _repair(data: FileBlob, index: FileBlob) -> Repaired:
    data_header, index_header = _decoded(data), _decoded(index)
    if isinstance(data_header, LsmtHeader) and data_header.flags & LsmtFlags.SPARSE:
        return _repair_sparse(data)
    done = Repaired()
    good = _agreed(data, index, data_header, index_header)
    if isinstance(data_header, FormatError):
        done.headers_made.append(data.path)
    records = _sound_records(data, index, good, done)
    if isinstance(index_header, FormatError):
        done.headers_made.append(index.path)
    if not (done.dropped_cnt or done.torn_bytes or done.headers_made) and _opens(data, index):
        return done
    done.is_changed = True
    kept = [index.path] + ([data.path] if data.path in done.headers_made else [])
    done.kept = _keep(kept)
    if data.path in done.headers_made:
        flags = LsmtFlags.HEADER | LsmtFlags.DATA
        _overwrite_head(data.path, replace(good, flags=flags, index_offset_bytes=0))
    header = replace(good, flags=LsmtFlags.HEADER, index_offset_bytes=AREA_BYTES)
    with atomic_output(index.path, may_replace=True) as file:
        file.write(lsmt_header.encode(header))
        file.write(records)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(index.path + ".pending")  # all of it is in the index now
    open_upper(data.path, index.path).close()
    return done


def _opens(data: FileBlob, index: FileBlob) -> bool:
    try:
        open_upper(data.path, index.path).close()
    except FormatError:
        return False
    return True


def _agreed(
    data: FileBlob,
    index: FileBlob,
    data_header: LsmtHeader | FormatError,
    index_header: LsmtHeader | FormatError,
) -> LsmtHeader:
    """What the two headers say, or the one that is left."""
    if isinstance(data_header, LsmtHeader):
        if data_header.flags & LsmtFlags.SEALED:
            raise FormatError(
                data.path, 28, "a writable layer", "a sealed one", hint="it needs no index"
            )
        if isinstance(index_header, LsmtHeader) and index_header.uuid != data_header.uuid:
            raise FormatError(
                index.path,
                56,
                f"{data_header.uuid} as in {data.path}",
                index_header.uuid,
                field="uuid",
                hint="these are files of two layers: look for the right one",
            )
        return data_header
    if isinstance(index_header, LsmtHeader):
        return index_header
    raise FormatError(
        data.path,
        0,
        "a header in one of the two files",
        "neither has one",
        hint="the virtual size and the uuid are lost: this can not be repaired by itself",
    )


def _sound_records(data: Blob, index: FileBlob, header: LsmtHeader, done: Repaired) -> bytes:
    """The records that the new index gets; what is left out is noted in ``done``."""
    file_end = data.size // SECTOR_BYTES
    size = max(0, index.size - AREA_BYTES)
    whole = size // ENTRY_BYTES * ENTRY_BYTES
    raw = index.read_at(AREA_BYTES, whole) if whole else b""
    done.torn_bytes = size - whole
    kept = bytearray()
    for position, segment in lsmt_index.decode(raw):
        at = position * ENTRY_BYTES
        if lsmt_index.problem_of(segment, file_end) is None:
            kept += raw[at : at + ENTRY_BYTES]
        else:
            _drop(done, AREA_BYTES + at, segment)
    if not done.torn_bytes and raw:
        kept += _pending(index, header, raw, file_end)
    done.record_cnt = len(kept) // ENTRY_BYTES
    return bytes(kept)


def _drop(done: Repaired, at: int, segment: Segment) -> None:
    done.dropped_cnt += 1
    if len(done.dropped) < _MAX_LISTED:
        begin, end = segment.offset * SECTOR_BYTES, segment.end * SECTOR_BYTES
        done.dropped.append((at, begin, end))


def _pending(index: FileBlob, header: LsmtHeader, raw: bytes, file_end: int) -> bytes:
    end = AREA_BYTES + len(raw)
    waiting = pending_records(index.path, header.uuid, end, raw[-ENTRY_BYTES:])
    for position, segment in lsmt_index.decode(waiting):
        if lsmt_index.problem_of(segment, file_end) is not None:
            return waiting[: position * ENTRY_BYTES]
    return waiting


def _keep(paths: list[str]) -> list[str]:
    """Second names for the files as they are; a data file is copied, for it is changed in place."""
    kept = [path + _KEPT_SUFFIX for path in paths]
    for name in kept:
        if os.path.lexists(name):
            raise ConfigError(
                f"{name}: exists already: the original of an earlier repair",
                hint="move it away first",
                path=name,
            )
    for path, name in zip(paths, kept, strict=True):
        try:
            if path == paths[0]:
                os.link(path, name)
            else:
                _copy(path, name)
        except OSError as error:
            raise ObdError(f"{name}: can not be made: {error.strerror}") from error
    return kept


def _copy(source: str, target: str) -> None:
    with open(source, "rb") as old, atomic_output(target) as new:
        shutil.copyfileobj(old, new, 1 << 20)


def _overwrite_head(path: str, header: LsmtHeader) -> None:
    with open(path, "r+b") as file:
        file.write(lsmt_header.encode(header))
        file.flush()
        os.fsync(file.fileno())


def _repair_sparse(data: FileBlob) -> Repaired:
    """The data file describes itself; only the record of zeroes can be damaged."""
    done = Repaired()
    path = data.path + zeroes.SUFFIX
    try:
        record = FileBlob(path)
    except ConfigError:
        return done  # nothing was ever discarded
    try:
        raw = record.read_at(0, record.size)
    finally:
        record.close()
    uuid = zeroes.uuid_field(data)
    sound, bad = zeroes.sound_records(raw, uuid)
    done.record_cnt, done.dropped_cnt = len(sound) // zeroes.RECORD_BYTES, len(bad)
    if not bad:
        return done
    done.is_changed = True
    done.dropped = [(at, 0, 0) for at in bad[:_MAX_LISTED]]
    done.kept = _keep([path])
    with atomic_output(path, may_replace=True) as file:
        file.write(zeroes.encode_header(uuid))
        file.write(sound)
    return done
