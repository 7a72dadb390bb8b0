"""Answers the commands of a ring that no worker can serve, so that its block device can go.

Taking a published device away sends commands and waits for their answers; without any the calls
into the kernel never return. What is asked is refused, SYNCHRONIZE CACHE and TEST UNIT READY are
answered with GOOD: nothing was accepted that could be lost. Not a server: it runs for the length
of one removal, over a ring that was just reset, with the journal's lock held.

Source: target_core_user.h (mailbox, entries); SPC-4 fixed format sense data.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import threading
from pathlib import Path
from types import TracebackType

from obdsup.errors import AlreadyServed
from obdsup.supervisor.provider.base import RingHandle

__all__ = ["Refuser"]

PAUSE_S = 0.01
_U32 = struct.Struct("=I")
_CMDR, _HEAD, _TAIL = 4, 12, 64  # cmdr_off and cmdr_size, cmd_head, cmd_tail in the mailbox
_STATUS, _SENSE, _CDB_OFF = 8, 16, 24  # in an entry
_OP_CMD = 1
_FINE = frozenset({0x00, 0x35, 0x91})  # TEST UNIT READY, SYNCHRONIZE CACHE (10), (16)
_HARDWARE_ERROR = bytes([0x70, 0, 4, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x44, 0, 0, 0, 0, 0])


class Refuser:
    """A context: commands are answered while it lasts.

    Raises:
        AlreadyServed: the journal's lock is held.
    """

    def __init__(self, ring: RingHandle, journal: Path) -> None:
        self._ring = ring
        self._journal = journal
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="refuser", daemon=True)

    def __enter__(self) -> Refuser:
        self._lock_fd = os.open(self._journal, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock_fd)
            raise AlreadyServed(f"{self._journal}: a process serves the ring") from None
        self._memory = mmap.mmap(self._ring.fds[0], self._ring.map_bytes)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end.set()
        self._thread.join()
        self._memory.close()
        os.close(self._lock_fd)

    def _run(self) -> None:
        while not self._end.wait(PAUSE_S):
            self.answer_all()

    def answer_all(self) -> int:
        """Answers what is in the ring; returns how many commands. The ring is untrusted: what does
        not fit into it ends the turn."""
        offset, size = struct.unpack_from("=II", self._memory, _CMDR)
        head, tail = self._u32(_HEAD), self._u32(_TAIL)
        count = 0
        while tail != head and tail < size:
            entry = offset + tail
            length_op = self._u32(entry)
            length = length_op & ~7
            if not 8 <= length <= size - tail:
                break
            if length_op & 7 == _OP_CMD:
                self._refuse(entry)
                count += 1
            tail = (tail + length) % size
            _U32.pack_into(self._memory, _TAIL, tail)
        if count:
            self._kick()
        return count

    def _refuse(self, entry: int) -> None:
        (cdb,) = struct.unpack_from("=Q", self._memory, entry + _CDB_OFF)
        is_fine = cdb < len(self._memory) and self._memory[cdb] in _FINE
        self._memory[entry + _STATUS : entry + _SENSE] = bytes([0 if is_fine else 2, *bytes(7)])
        sense = b"" if is_fine else _HARDWARE_ERROR
        self._memory[entry + _SENSE : entry + _SENSE + len(sense)] = sense

    def _kick(self) -> None:
        with self._ring.lock:
            if self._ring.kind == "uio":
                os.write(self._ring.fds[0], struct.pack("=i", 0))
            else:
                os.write(self._ring.fds[2], struct.pack("=Q", 1))

    def _u32(self, at: int) -> int:
        return int(_U32.unpack_from(self._memory, at)[0])
