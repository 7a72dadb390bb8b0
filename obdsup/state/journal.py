"""Reader of the in-flight journal (layout: native/src/obd_journal.h, version 1).

Only reads, with ``pread`` on an fd: the file is on tmpfs and coherent with the worker's mapping,
and a file that is truncated meanwhile gives a short read instead of the SIGBUS of a mapping. What
it gives is a snapshot without a lock: single fields are exact, sums over fields are not.

| offset | size | field |
|---|---|---|
| 0 | 8 | magic "OBDJRNL\\0" |
| 8, 12 | 4, 4 | layout_version, header_bytes |
| 16, 32 | 16, 16 | boot_id, device_uuid |
| 48..68 | 4 each | slot_cnt, slot_bytes, max_iov, cmdr_off, cmdr_size |
| 72 | 8 | map_bytes |
| 124 | 4 | crc32c of bytes 0..123 |
| 128, 136, 144 | 8 each | generation, next, append_reserved |
| 192..204 | 4 each | pub_valid, pub_slot, pub_tail_before, pub_tail_after |
| 256 | 8 each | counters, in the order of ``JournalCounters`` |
| 2048 | 256 x 4 | threads: id of the thread that works on slot i, 0: none |
| header_bytes | | slots |
"""

from __future__ import annotations

import functools
import os
import struct
import uuid
from dataclasses import dataclass, fields

from obdsup.errors import StateError

__all__ = [
    "ExecutingCommand",
    "JournalCounters",
    "JournalHeader",
    "JournalReader",
    "JournalSlot",
    "Publication",
]

MAGIC = b"OBDJRNL\0"
LAYOUT_VERSION = 1
HEADER_BYTES = 4096
HEADER = struct.Struct("<8sII16s16sIIIIIIQ44sI")
CRC_OFFSET = 124
GENERATION_OFFSET = 128
POSITIONS = struct.Struct("<QQQ")
PUBLICATION_OFFSET = 192
PUBLICATION = struct.Struct("<IIII")
COUNTERS_OFFSET = 256
SLOT = struct.Struct("<IIIHHIHH32sQ")
SLOTS_SHAPE_OFFSET = 48
SLOTS_SHAPE = struct.Struct("<II")
THREADS_OFFSET = 2048
THREADS = struct.Struct("<256I")
SLOT_STATE_NAMES = {0: "free", 1: "valid", 2: "executing"}
GENERATION_MAX = 1 << 62
MAX_SLOTS = 65536
MAX_SLOT_BYTES = 65536


@functools.cache
def _crc_table() -> list[int]:
    table = []
    for index in range(256):
        value = index
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of a few bytes; a table is enough for a header."""
    table = _crc_table()
    value = 0xFFFFFFFF
    for byte in data:
        value = table[(value ^ byte) & 0xFF] ^ (value >> 8)
    return value ^ 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class JournalHeader:
    """What does not change during the life of a journal."""

    layout_version: int
    boot_id: str
    device_uuid: str
    slot_cnt: int
    slot_bytes: int
    max_iov: int
    cmdr_off: int
    cmdr_size: int
    map_bytes: int


@dataclass(frozen=True, slots=True)
class JournalCounters:
    """struct obd_journal_counters: times are CLOCK_MONOTONIC nanoseconds, the rest are counts."""

    heartbeat_ns: int
    heartbeat_cnt: int
    owner_pid: int
    owner_generation: int
    attached_ns: int
    first_publish_ns: int
    picked_up: int
    completed: int
    recovered: int
    recovered_last: int
    already_done: int
    read_cmds: int
    write_cmds: int
    discard_cmds: int
    flush_cmds: int
    other_cmds: int
    read_bytes: int
    write_bytes: int
    medium_errors: int
    refused_cmds: int
    in_flight: int
    resets: int
    foreign_resets: int
    poisoned: int


COUNTERS = struct.Struct(f"<{len(fields(JournalCounters))}Q")


@dataclass(frozen=True, slots=True)
class Publication:
    """The publication record; positions are offsets in the command ring."""

    is_valid: bool
    slot: int
    tail_before: int
    tail_after: int


@dataclass(frozen=True, slots=True)
class JournalSlot:
    """One command in flight.

    ``attempts``: deaths of workers, by a fault of their own, while it was executing.
    """

    index: int
    state: str
    sequence: int
    ring_offset: int
    cmd_id: int
    iov_cnt: int
    attempts: int
    cdb: bytes
    picked_up_ns: int


@dataclass(frozen=True, slots=True)
class ExecutingCommand:
    """A command that a thread of the serving worker is working on."""

    slot: int
    tid: int
    sequence: int
    picked_up_ns: int
    attempts: int
    cdb: bytes


class JournalReader:
    """Reads the journal behind ``fd``, which stays the caller's.

    Args:
        fd: open for reading, kept open by the caller for as long as the reader is used.
        path: for error messages.
    """

    def __init__(self, fd: int, path: str = "journal") -> None:
        self._fd = fd
        self._path = path

    def header(self) -> JournalHeader:
        """The checked header.

        Raises:
            StateError: empty, short, wrong magic or crc, of a version this release does not know.
        """
        raw = self._read(0, HEADER.size, "header")
        (magic, version, header_bytes, boot, device, slot_cnt, slot_bytes, max_iov,
         cmdr_off, cmdr_size, _, map_bytes, _, crc) = HEADER.unpack(raw)  # fmt: skip
        self._expect("magic", 0, MAGIC, magic)
        self._expect("layout_version", 8, LAYOUT_VERSION, version)
        self._expect("header_bytes", 12, HEADER_BYTES, header_bytes)
        self._expect("crc32c of the header", CRC_OFFSET, crc32c(raw[:CRC_OFFSET]), crc)
        if slot_cnt > MAX_SLOTS or not SLOT.size <= slot_bytes <= MAX_SLOT_BYTES:
            self._expect("slot_cnt and slot_bytes", 48, "bounded", (slot_cnt, slot_bytes))
        return JournalHeader(
            version, str(uuid.UUID(bytes=boot)), str(uuid.UUID(bytes=device)),
            slot_cnt, slot_bytes, max_iov, cmdr_off, cmdr_size, map_bytes,
        )  # fmt: skip

    def generation(self) -> int:
        """The generation that may publish; 0 when there is no usable journal yet.

        Damage is no generation either: workers refuse such a journal.
        """
        raw = os.pread(self._fd, 8, GENERATION_OFFSET)
        value = int.from_bytes(raw, "little") if len(raw) == 8 else 0
        return value if value <= GENERATION_MAX else 0

    def next_position(self) -> tuple[int, int]:
        """(sequence, ring offset) of the next entry to be picked up."""
        _, position, _ = POSITIONS.unpack(self._read(GENERATION_OFFSET, POSITIONS.size, "next"))
        return position >> 32, position & 0xFFFFFFFF

    def append_reserved_bytes(self) -> int:
        """High-water mark of the upper's data file."""
        raw = self._read(GENERATION_OFFSET, POSITIONS.size, "append_reserved")
        return int(POSITIONS.unpack(raw)[2])

    def publication(self) -> Publication:
        """The publication record as it stands."""
        raw = self._read(PUBLICATION_OFFSET, PUBLICATION.size, "publication record")
        valid, slot, before, after = PUBLICATION.unpack(raw)
        return Publication(valid == 1, slot, before, after)

    def counters(self) -> JournalCounters:
        """All counters; zeros before the journal was made."""
        raw = os.pread(self._fd, COUNTERS.size, COUNTERS_OFFSET)
        return JournalCounters(*COUNTERS.unpack(raw.ljust(COUNTERS.size, b"\0")))

    def slots(self) -> list[JournalSlot]:
        """The commands in flight, in sequence order.

        Raises:
            StateError: as ``header``, or a slot that is none.
        """
        header = self.header()
        raw = self._read(HEADER_BYTES, header.slot_cnt * header.slot_bytes, "slots")
        found = []
        for index in range(header.slot_cnt):
            offset = index * header.slot_bytes
            (state, sequence, ring_offset, cmd_id, cdb_bytes, iov_cnt, _, attempts, cdb,
             picked_up_ns) = SLOT.unpack_from(raw, offset)  # fmt: skip
            if state not in SLOT_STATE_NAMES:
                self._expect(f"state of slot {index}", HEADER_BYTES + offset, "0, 1 or 2", state)
            if state:
                name = SLOT_STATE_NAMES[state]
                found.append(
                    JournalSlot(index, name, sequence, ring_offset, cmd_id, iov_cnt, attempts,
                                cdb[: min(cdb_bytes, 32)], picked_up_ns)
                )  # fmt: skip
        return sorted(found, key=lambda slot: slot.sequence)

    def executing(self) -> list[ExecutingCommand]:
        """The commands that have a thread right now, in slot order; one small read for each.

        What waits for a free thread, what lies in slots beyond the 256th, and everything of a
        worker of a release that does not store thread ids, is missing. A thread id may be left
        over from a worker that died, for as long as its slot is in use: the caller looks whether
        the thread belongs to ``owner_pid``. Empty when there is no journal.
        """
        threads = os.pread(self._fd, THREADS.size, THREADS_OFFSET)
        if len(threads) != THREADS.size or not any(threads):
            return []
        slot_cnt, slot_bytes = SLOTS_SHAPE.unpack(
            self._read(SLOTS_SHAPE_OFFSET, SLOTS_SHAPE.size, "slot_cnt and slot_bytes")
        )
        found = []
        for index, tid in enumerate(THREADS.unpack(threads)):
            if not tid or index >= slot_cnt:
                continue
            raw = os.pread(self._fd, SLOT.size, HEADER_BYTES + index * slot_bytes)
            if len(raw) != SLOT.size:
                break
            state, sequence, _, _, cdb_bytes, _, _, attempts, cdb, picked_up_ns = SLOT.unpack(raw)
            if SLOT_STATE_NAMES.get(state) == "executing":
                cdb = cdb[: min(cdb_bytes, len(cdb))]
                found.append(ExecutingCommand(index, tid, sequence, picked_up_ns, attempts, cdb))
        return found

    def _read(self, offset: int, size: int, what: str) -> bytes:
        raw = os.pread(self._fd, size, offset)
        if len(raw) != size:
            self._expect(f"length of {what}", offset, size, len(raw))
        return raw

    def _expect(self, what: str, offset: int, expected: object, got: object) -> None:
        if got != expected:
            raise StateError(
                f"{self._path} at byte {offset}: {what}: expected {expected!r}, found {got!r}",
                hint="the ring is reset instead of recovered",
                path=self._path,
                offset=offset,
                field=what,
            )
