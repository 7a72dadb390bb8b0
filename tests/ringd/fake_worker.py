"""A worker in a few lines: serves a memfd ring from a bytearray, one command at a time or as told.

Knows the ring by its ABI only (target_core_user.h). Tests step it by hand, so that they decide what
is completed, in which order, and how it cheats; or run it on a thread.
"""

from __future__ import annotations

import mmap
import os
import random
import select
import struct
import threading
from dataclasses import dataclass, field

from obdsup.supervisor.provider.base import RingHandle

OP_PAD, OP_CMD = 0, 1
SECTOR = 512
GOOD, CHECK_CONDITION, BUSY = 0, 2, 8


@dataclass
class Command:
    """One command as it was picked up."""

    ring_offset: int
    entry_bytes: int
    cmd_id: int
    cdb: bytes
    iovs: list[tuple[int, int]] = field(default_factory=list)

    @property
    def opcode(self) -> int:
        return self.cdb[0]

    @property
    def lba(self) -> int:
        return int(struct.unpack_from(">Q", self.cdb, 2)[0])

    @property
    def data_bytes(self) -> int:
        return sum(length for _, length in self.iovs)


class FakeWorker:
    """Owns the handle's mapping; ``close`` unmaps and closes the fds."""

    def __init__(self, handle: RingHandle, disk: bytearray) -> None:
        self.handle = handle
        self.disk = disk
        memory, self.wait_fd, self.kick_fd = handle.fds
        self.map = mmap.mmap(memory, handle.map_bytes)
        self._words = memoryview(self.map).cast("I")  # stores whole words, struct does not
        version, flags, self.cmdr_off, self.cmdr_size = struct.unpack_from("<HHII", self.map, 0)
        assert (version, flags, self.cmdr_off) == (2, 0xF, 128)
        self.next = self.tail
        self.pads_seen = 0
        self._thread: threading.Thread | None = None
        self._must_stop = threading.Event()

    # -- the mailbox ------------------------------------------------------------------------------
    @property
    def head(self) -> int:
        return int(self._words[3])

    @property
    def tail(self) -> int:
        return int(self._words[16])

    def set_tail(self, value: int) -> None:
        self._words[16] = value

    def kick(self) -> None:
        os.write(self.kick_fd, (1).to_bytes(8, "little"))

    # -- picking up -------------------------------------------------------------------------------
    def pick_up(self) -> list[Command]:
        """Every command between the last one picked up and cmd_head."""
        found = []
        while self.next != self.head:
            op, length = self._entry_size(self.next)
            if op == OP_CMD:
                found.append(self._read(self.next, length))
            else:
                self.pads_seen += 1
            self.next = (self.next + length) % self.cmdr_size
        return found

    def _entry_size(self, offset: int) -> tuple[int, int]:
        len_op = struct.unpack_from("<I", self.map, self.cmdr_off + offset)[0]
        return len_op & 7, len_op & ~7

    def _read(self, offset: int, length: int) -> Command:
        at = self.cmdr_off + offset
        cmd_id, iov_cnt = struct.unpack_from("<4xHxxI", self.map, at)
        cdb_off = struct.unpack_from("<Q", self.map, at + 24)[0]
        iovs = [struct.unpack_from("<QQ", self.map, at + 48 + 16 * i) for i in range(iov_cnt)]
        assert at + max(112, 48 + 16 * iov_cnt) == cdb_off
        assert cdb_off + 10 <= at + length
        return Command(offset, length, cmd_id, bytes(self.map[cdb_off : cdb_off + 16]), iovs)

    # -- carrying out -----------------------------------------------------------------------------
    def execute(self, command: Command) -> None:
        """Moves the data of reads, writes, UNMAP and WRITE SAME (of zeros)."""
        at = command.lba * SECTOR
        if command.opcode == 0x88:
            for offset, length in command.iovs:
                self.map[offset : offset + length] = self.disk[at : at + length]
                at += length
        elif command.opcode == 0x8A:
            for offset, length in command.iovs:
                self.disk[at : at + length] = self.map[offset : offset + length]
                at += length
        elif command.opcode == 0x42:
            offset, _ = command.iovs[0]
            lba, cnt = struct.unpack_from(">QI", self.map, offset + 8)
            self.disk[lba * SECTOR : (lba + cnt) * SECTOR] = bytes(cnt * SECTOR)
        elif command.opcode == 0x93:
            cnt = struct.unpack_from(">I", command.cdb, 10)[0]
            self.disk[at : at + cnt * SECTOR] = bytes(cnt * SECTOR)

    # -- publishing -------------------------------------------------------------------------------
    def publish(self, cmd_id: int, status: int = GOOD, sense: bytes = b"", uflags: int = 0) -> None:
        """Writes a completion into the tail entry, whichever command that entry was."""
        while self._entry_size(self.tail)[0] == OP_PAD:
            self.set_tail((self.tail + self._entry_size(self.tail)[1]) % self.cmdr_size)
        at, length = self.cmdr_off + self.tail, self._entry_size(self.tail)[1]
        struct.pack_into("<HxB", self.map, at + 4, cmd_id, uflags)
        struct.pack_into("<B3xI96s", self.map, at + 8, status, 0, sense)
        self.set_tail((self.tail + length) % self.cmdr_size)

    def wait(self, timeout_s: float = 10.0) -> None:
        """Waits until ringd signals; takes the signal."""
        ready, _, _ = select.select([self.wait_fd], [], [], timeout_s)
        if ready:
            os.read(self.wait_fd, 8)

    def pick_up_some(self, cnt: int) -> list[Command]:
        """Waits until ``cnt`` commands were picked up."""
        found = self.pick_up()
        while len(found) < cnt:
            assert select.select([self.wait_fd], [], [], 10.0)[0], f"{len(found)} of {cnt} commands"
            os.read(self.wait_fd, 8)
            found += self.pick_up()
        return found

    # -- on a thread ------------------------------------------------------------------------------
    def start(self) -> None:
        """Serves on a thread until ``close``: about half of what it has each turn, shuffled.

        That is what fragments the data area, as a worker with slow and fast commands does.
        """

        def run() -> None:
            shuffle = random.Random(1)
            pending: list[Command] = []
            while not self._must_stop.is_set() or pending:
                pending += self.pick_up()
                shuffle.shuffle(pending)
                for _ in range((len(pending) + 1) // 2):
                    command = pending.pop()
                    self.execute(command)
                    self.publish(command.cmd_id)
                self.kick()
                if not pending:
                    self.wait(0.05)

        self._must_stop.clear()
        self._thread = threading.Thread(target=run, name="fake-worker", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._must_stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def close(self) -> None:
        self.stop()
        self._words.release()
        self.map.close()
        self.handle.close()
