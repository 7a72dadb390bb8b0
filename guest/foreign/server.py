"""A ring server of a few lines, for checks of a provider alone: SCSI over a plain backing file.

Serves in order, keeps no journal: after a kill the ring must be reset. Started as
``python server.py KIND MAP_BYTES BACKING FD...`` with the fds inherited.
"""

from __future__ import annotations

import mmap
import os
import select
import struct
import sys

_ENTRY_CMD, _OP_MASK = 1, 7
_CMD_HEAD, _CMD_TAIL = 12, 64
_GOOD, _CHECK_CONDITION = 0, 2


class FakeServer:
    """Answers the CDBs Linux sends to a disk, reading and writing ``backing``."""

    def __init__(self, kind: str, fds: list[int], map_bytes: int, backing: str) -> None:
        self._ring = mmap.mmap(fds[0], map_bytes)
        self._wait_fd, self._kick_fd = (fds[0], fds[0]) if kind == "uio" else (fds[1], fds[2])
        self._event_bytes = 4 if kind == "uio" else 8
        self._disk = os.open(backing, os.O_RDWR)
        self._size_bytes = os.fstat(self._disk).st_size
        version, _, self._cmdr_off, self._cmdr_size = struct.unpack_from("<HHII", self._ring, 0)
        if version != 2:
            raise SystemExit(f"mailbox version {version}")

    def serve(self) -> None:
        """Serves until killed. Kicks and scans before the first poll, as every new worker must."""
        self._kick()
        while True:
            if self._drain():
                self._kick()
            select.select([self._wait_fd], [], [])
            os.read(self._wait_fd, self._event_bytes)

    def _kick(self) -> None:
        os.write(self._kick_fd, (1).to_bytes(self._event_bytes, "little"))

    def _drain(self) -> int:
        served = 0
        while True:
            (head,) = struct.unpack_from("<I", self._ring, _CMD_HEAD)
            (tail,) = struct.unpack_from("<I", self._ring, _CMD_TAIL)
            if head == tail:
                return served
            entry = self._cmdr_off + tail
            (len_op,) = struct.unpack_from("<I", self._ring, entry)
            if len_op & _OP_MASK == _ENTRY_CMD:
                self._answer(entry)
            length = len_op & ~_OP_MASK
            struct.pack_into("<I", self._ring, _CMD_TAIL, (tail + length) % self._cmdr_size)
            served += 1

    def _answer(self, entry: int) -> None:
        iov_cnt, _, _, cdb_off = struct.unpack_from("<IIQQ", self._ring, entry + 8)
        cdb = bytes(self._ring[cdb_off : cdb_off + 16])
        iov = [struct.unpack_from("<QQ", self._ring, entry + 48 + 16 * i) for i in range(iov_cnt)]
        status, sense = self._execute(cdb, iov)
        struct.pack_into("<BBHI", self._ring, entry + 8, status, 0, 0, 0)
        self._ring[entry + 16 : entry + 112] = sense.ljust(96, b"\0")

    def _execute(self, cdb: bytes, iov: list[tuple[int, int]]) -> tuple[int, bytes]:
        op = cdb[0]
        if op in (0x28, 0x88, 0x2A, 0x8A):
            lba = int.from_bytes(cdb[2:6] if op in (0x28, 0x2A) else cdb[2:10], "big")
            self._transfer(lba * 512, iov, is_write=op in (0x2A, 0x8A))
        elif op in (0x35, 0x91):
            os.fdatasync(self._disk)
        elif op in (0x12, 0x1A, 0x5A, 0x25, 0x9E) and not (op == 0x12 and cdb[1] & 1):
            self._reply(self._inform(op), iov)
        elif op not in (0x00, 0x1B):
            sense = bytearray(18)
            sense[0], sense[2], sense[7], sense[12] = 0x70, 5, 10, 0x20
            return _CHECK_CONDITION, bytes(sense)
        return _GOOD, b""

    def _inform(self, op: int) -> bytes:
        last = self._size_bytes // 512 - 1
        if op == 0x12:
            return b"\0\0\5\2\x1f\0\0\2" + b"OBDSUP  " + b"FAKE DISK       " + b"0001"
        if op == 0x1A:
            return bytes([23, 0, 0, 0, 8, 18, 4]) + bytes(17)  # caching page, WCE
        if op == 0x5A:
            return bytes([0, 26, 0, 0, 0, 0, 0, 0, 8, 18, 4]) + bytes(17)
        if op == 0x25:
            return struct.pack(">II", min(last, 0xFFFFFFFF), 512)
        return struct.pack(">QI", last, 512).ljust(32, b"\0")

    def _reply(self, data: bytes, iov: list[tuple[int, int]]) -> None:
        for offset, length in iov:
            part, data = data[:length], data[length:]
            self._ring[offset : offset + len(part)] = part

    def _transfer(self, position: int, iov: list[tuple[int, int]], *, is_write: bool) -> None:
        for offset, length in iov:
            if is_write:
                os.pwrite(self._disk, self._ring[offset : offset + length], position)
            else:
                self._ring[offset : offset + length] = os.pread(self._disk, length, position)
            position += length


if __name__ == "__main__":
    FakeServer(sys.argv[1], [int(n) for n in sys.argv[4:]], int(sys.argv[2]), sys.argv[3]).serve()
