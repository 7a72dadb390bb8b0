"""A TCMU ring in a memfd with a toy kernel on its other side: one command at a time.

Enough to see that a worker serves a ring. The real thing for load, order and reuse is ringd.
Source: /usr/include/linux/target_core_user.h.
"""

from __future__ import annotations

import mmap
import os
import select
import struct
import uuid
from dataclasses import dataclass
from pathlib import Path

CMDR_OFF = 128
RING_BYTES = 64 * 1024
DATA_BYTES = 1024 * 1024
MAP_BYTES = RING_BYTES + DATA_BYTES
CMDR_BYTES = RING_BYTES - CMDR_OFF
ENTRY_BYTES = 128
OP_CMD, OP_PAD = 1, 0


@dataclass(frozen=True)
class Completion:
    """Status, sense and data of a finished command."""

    status: int
    sense: bytes
    data: bytes


class FakeRing:
    """Owns the ring's three fds and the journal file; ``close`` when done."""

    def __init__(self, directory: Path, name: str = "disk") -> None:
        self.name = name
        self.uuid = str(uuid.uuid4())
        self.boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        self.mem_fd = os.memfd_create(f"ring-{name}")
        os.ftruncate(self.mem_fd, MAP_BYTES)
        self.wait_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.kick_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.journal_path = directory / f"{name}.inflight"
        self.journal_fd = os.open(self.journal_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.map = mmap.mmap(self.mem_fd, MAP_BYTES)
        struct.pack_into("<HHII", self.map, 0, 2, 0xF, CMDR_OFF, CMDR_BYTES)
        self._head = 0

    @property
    def fds(self) -> list[int]:
        """As a ``serve`` request carries them."""
        return [self.mem_fd, self.wait_fd, self.kick_fd, self.journal_fd]

    @property
    def tail(self) -> int:
        return int(struct.unpack_from("<I", self.map, 64)[0])

    def queue(self, cdb: bytes, data: bytes, cmd_id: int = 0) -> int:
        """Puts a command on the ring and wakes the worker; returns its entry's offset."""
        if CMDR_BYTES - self._head < ENTRY_BYTES:
            struct.pack_into(
                "<I", self.map, CMDR_OFF + self._head, (CMDR_BYTES - self._head) | OP_PAD
            )
            self._head = 0
        offset = self._head
        at = CMDR_OFF + offset
        self.map[RING_BYTES : RING_BYTES + len(data)] = data
        self.map[at : at + ENTRY_BYTES] = bytes(ENTRY_BYTES)
        iov_cnt = 1 if data else 0
        struct.pack_into(
            "<IHBBIIIIQ",
            self.map,
            at,
            ENTRY_BYTES | OP_CMD,
            cmd_id,
            0,
            0,
            iov_cnt,
            0,
            0,
            0,
            at + 96,
        )
        struct.pack_into("<QQ", self.map, at + 48, RING_BYTES, len(data))
        self.map[at + 96 : at + 96 + len(cdb)] = cdb
        self._head = (offset + ENTRY_BYTES) % CMDR_BYTES
        struct.pack_into("<I", self.map, 12, self._head)
        os.eventfd_write(self.wait_fd, 1)
        return offset

    def complete(self, offset: int, data_bytes: int, timeout_s: float = 10.0) -> Completion:
        """Waits until everything queued is completed; the entry's response."""
        poller = select.poll()
        poller.register(self.kick_fd, select.POLLIN)
        while self.tail != self._head:
            if not poller.poll(timeout_s * 1000):
                raise AssertionError(
                    f"no completion in {timeout_s} s: tail {self.tail}, head {self._head}"
                )
            os.eventfd_read(self.kick_fd)
        at = CMDR_OFF + offset
        sense = bytes(self.map[at + 16 : at + 112])
        return Completion(
            self.map[at + 8], sense, bytes(self.map[RING_BYTES : RING_BYTES + data_bytes])
        )

    def read(self, lba: int, sectors: int) -> Completion:
        """READ(16)."""
        cdb = struct.pack(">BBQIBB", 0x88, 0, lba, sectors, 0, 0)
        return self.complete(self.queue(cdb, bytes(sectors * 512)), sectors * 512)

    def write(self, lba: int, data: bytes) -> Completion:
        """WRITE(16)."""
        cdb = struct.pack(">BBQIBB", 0x8A, 0, lba, len(data) // 512, 0, 0)
        return self.complete(self.queue(cdb, data), 0)

    def break_head(self) -> None:
        """Puts ``cmd_head`` where no entry can be, and wakes the worker."""
        struct.pack_into("<I", self.map, 12, CMDR_BYTES + 64)
        os.eventfd_write(self.wait_fd, 1)

    def close(self) -> None:
        self.map.close()
        for fd in self.fds:
            os.close(fd)
