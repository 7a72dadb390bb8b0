"""How far the kernel's side has filled a ring, read without touching anything else of it.

Mailbox: ``cmd_head`` is the u32 at byte 12 (target_core_user.h); the kernel writes it.
"""

from __future__ import annotations

import mmap
import os
import struct

from obdsup.supervisor.provider.base import RingHandle

__all__ = ["read_head"]

_HEAD = struct.Struct("<I")
_HEAD_OFFSET = 12


def read_head(ring: RingHandle) -> int | None:
    """Ring offset behind the newest entry; None when the ring is closed or can not be read.

    A memfd is read with pread: one that shrinks gives a short read, where a mapping would give
    SIGBUS. A uio device can only be mapped, and only as a whole; the mapping lives for the call
    alone, because the device can not be opened anew while one exists. Only the mailbox is touched.
    """
    with ring.lock:
        if ring.is_closed or not ring.fds:
            return None
        try:
            raw = _pread(ring) if ring.kind == "memfd" else _peek(ring)
        except (OSError, ValueError):  # the device is going away
            return None
    return int(_HEAD.unpack(raw)[0]) if len(raw) == _HEAD.size else None


def _pread(ring: RingHandle) -> bytes:
    return os.pread(ring.fds[0], _HEAD.size, _HEAD_OFFSET)


def _peek(ring: RingHandle) -> bytes:
    with mmap.mmap(ring.fds[0], ring.map_bytes, mmap.MAP_SHARED, mmap.PROT_READ) as view:
        return view[_HEAD_OFFSET : _HEAD_OFFSET + _HEAD.size]
