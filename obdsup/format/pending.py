"""Reads the records of a writable layer that wait for a sync: the file INDEX.pending.

| off  | size | field   | meaning                                                       |
|------|------|---------|---------------------------------------------------------------|
| 0    | 8    | magic   | "OBDPEND" and a zero                                          |
| 8    | 4    | version | 1, little-endian                                              |
| 16   | 36   | boot id | of the kernel whose page cache holds this, as text            |
| 56   | 37   | uuid    | of the pair, as text                                          |
| 4096 |      | records | each at the offset that it has, or will have, in the index    |

The engine appends records here and moves them to the index file when their data is synced: on the
disk the index file never names data that is not there. What another boot left here was never
flushed and counts for nothing. The index file's last record stands here too, at its offset; when
the two differ, somebody else has written to the index file since, and what was pending is void.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

from obdsup.errors import ObdError
from obdsup.format.lsmt_header import AREA_BYTES
from obdsup.format.lsmt_index import ENTRY_BYTES

__all__ = ["SUFFIX", "boot_id", "pending_records"]

SUFFIX = ".pending"
_HEADER = struct.Struct("<8sI4x36s4x37s")
_HEADER_BYTES = 128
_MAGIC = b"OBDPEND\0"
_VERSION = 1


def boot_id() -> str:
    """The running kernel's boot id."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def pending_records(index_path: str, uuid: str, indexed: int, last: bytes) -> bytes:
    """The whole records that continue the index file; empty when there are none.

    Args:
        index_path: of the index file, beside which they lie.
        uuid: of the pair.
        indexed: where the index file's whole records end.
        last: the record in front of that; empty when the index file has none.

    Raises:
        ObdError: the file is there and can not be read.
    """
    try:
        with open(index_path + SUFFIX, "rb") as file:
            if not _is_ours(file.read(_HEADER_BYTES), uuid):
                return b""
            anchored = indexed - len(last)
            file.seek(anchored)
            found = file.read(max(0, os.fstat(file.fileno()).st_size - anchored))
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise ObdError(f"{index_path}{SUFFIX}: {error.strerror}") from error
    if found[: len(last)] != last:
        return b""
    records = found[len(last) :]
    return records[: len(records) // ENTRY_BYTES * ENTRY_BYTES]


def _is_ours(header: bytes, uuid: str) -> bool:
    if len(header) < _HEADER_BYTES:
        return False
    magic, version, boot, pair = _HEADER.unpack_from(header)
    return (magic, version) == (_MAGIC, _VERSION) and (
        boot == boot_id().encode() and pair.rstrip(b"\0").upper() == uuid.encode()
    )


assert AREA_BYTES > _HEADER_BYTES >= _HEADER.size
