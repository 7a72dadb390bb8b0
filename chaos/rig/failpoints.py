"""Failpoints: what is to happen at which named point of a worker, said through a shared page.

Only a build with test hooks looks at the page (``chaos.rig.hooked``), and only when its environment
names it (``ENVIRONMENT``). Layout: native/src/obd_failpoint.h, version 1, little-endian.

========  ========  =========================================================
offset    size      field
========  ========  =========================================================
0         8         magic ``OBDFAILP``
8         4         layout_version: 1
16        4         hit_cnt: hits ever
64        20 x 96   entries: armed u32, action u32, argument u64,
                    passes_left i64, count i64, repeat_left u32, hits u32,
                    serial u64, point 32 bytes, lba + 1 u64 (0: any), 8 zero
2048      32 x 64   hits, number n at n % 32: pid u64, generation u64,
                    when_ns u64, action u32, number + 1 u32, point 32 bytes
========  ========  =========================================================

``armed`` is stored last by us and ``number`` last by a worker, so neither side sees half an entry.
"""

from __future__ import annotations

import enum
import mmap
import os
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from chaos.rig.problem import RigError

__all__ = ["ENVIRONMENT", "POINTS", "SPARSE_POINTS", "Action", "FailPoints", "Hit"]

ENVIRONMENT = "OBDSUP_FAILPOINTS"

_PAGE_BYTES = 4096
_HEADER = struct.Struct("<8sIII")
_MAGIC = b"OBDFAILP"
_VERSION = 1
_ENTRIES_AT, _ENTRY_CNT, _ENTRY_BYTES = 64, 20, 96
_ENTRY = struct.Struct("<IIQqqIIQ32sQ")  # from ``armed`` on
_HITS_AT, _HIT_CNT = 2048, 32
_HIT = struct.Struct("<QQQII32s")
_HIT_CNT_AT = 16
_POLL_S = 0.002

# In the order of a worker's life; with SPARSE_POINTS every OBD_CRASH_POINT: a test compares.
POINTS = (
    "image.open", "image.lower", "image.upper", "image.opened",
    "attach.lock", "attach.prepare", "attach.open", "attach.check", "attach.writer",
    "upper.lock", "upper.follow", "upper.cut", "upper.pending", "upper.writing",
    "format.unmarked", "format.filled", "format.magic", "attach.generation",
    "recover.free", "recover.clear", "ring.mark", "recover.demote", "recover.blame", "recover.drop",
    "recover.done",
    "attach.taken", "attach.kick", "replay.suspect", "replay.poisoned", "replay.read",
    "replay.write", "replay.done",
    "pickup.skip", "pickup.copy", "pickup.valid", "pickup.next", "pickup.done",
    "start.executing", "start.done", "command.run",
    "upper.reserve", "upper.data", "upper.written", "upper.record", "upper.visible",
    "upper.committed",
    "flush.data", "flush.records", "flush.record", "flush.index", "flush.done",
    "publish.skip", "publish.record", "publish.record_valid", "publish.cmd_id",
    "publish.response", "publish.tail", "publish.committed", "publish.free", "publish.clear",
    "publish.done", "serve.kick",
    "drain.asked", "drain.kick", "drain.done",
    "detach.writer", "detach.owner", "detach.unlock", "detach.done",
)  # fmt: skip

# Those that only a sparse writable layer passes; tests/ringd/test_kills_sparse.py dies there.
SPARSE_POINTS = (
    "sparse.extend", "sparse.block", "sparse.data", "sparse.written", "zeroes.record",
    "zeroes.sync", "sparse.punch", "sparse.punched",
)  # fmt: skip


class Action(enum.Enum):
    """What happens at the point, to the process or thread that passes it."""

    SIGSEGV = 1
    SIGKILL = 2
    SIGSTOP = 3
    ABORT = 4
    SLEEP = 5
    SPIN = 6
    ARM = 7  # arms another entry


@dataclass(frozen=True, slots=True)
class Hit:
    """One time that it happened. ``generation``: of the device the process attached last."""

    number: int  # from 0
    point: str
    action: Action
    pid: int
    generation: int
    when_ns: int


class FailPoints:
    """The page of one installation. ``close`` it when the installation is gone.

    Only one process may arm at a time. Counting begins when armed and is exact also when several
    threads and processes pass a point.
    """

    def __init__(self, path: Path, page: mmap.mmap) -> None:
        self.path = path
        self._page = page
        self._serial = 0

    @classmethod
    def create(cls, path: Path) -> Self:
        """Makes a page with nothing armed.

        Raises:
            OSError: the file exists or can not be made.
        """
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, _PAGE_BYTES)
            page = mmap.mmap(fd, _PAGE_BYTES)
        finally:
            os.close(fd)
        _HEADER.pack_into(page, 0, _MAGIC, _VERSION, 0, 0)
        return cls(path, page)

    @staticmethod
    def points() -> tuple[str, ...]:
        """Every point there is."""
        return POINTS

    @property
    def environment(self) -> dict[str, str]:
        """What a worker needs in its environment."""
        return {ENVIRONMENT: str(self.path)}

    def arm(
        self,
        point: str,
        action: Action = Action.SIGKILL,
        *,
        count: int = 1,
        repeat: int = 1,
        sleep_ms: int = 0,
        lba: int | None = None,
    ) -> int:
        """Has ``action`` happen at the ``count``-th pass of the point from now on.

        Args:
            point: one of ``points()``.
            action: what happens; not ARM, see ``arm_after``.
            count: 1 is the next pass.
            repeat: how many processes it happens to, one after the other, each once; in each
                after ``count`` passes.
            sleep_ms: for SLEEP.
            lba: only passes of a command whose sectors hold this one; at ``command.run``.

        Returns:
            The number of the entry, for ``disarm`` and ``arm_after``.

        Raises:
            RigError: no such point, or every entry is armed.
        """
        index = self._fill(self._free(), point, action, sleep_ms, count, repeat, lba)
        self._store(index, 1)
        return index

    def arm_after(self, first: str, point: str, action: Action = Action.SIGKILL) -> int:
        """Has ``action`` happen at the first pass of ``point`` that follows one of ``first``.

        Raises:
            RigError: as ``arm``.
        """
        second = self._fill(self._free(), point, action, 0, 1, 1)
        trigger = self._fill(self._free(but=second), first, Action.ARM, second, 1, 1)
        self._store(trigger, 1)
        return second

    def disarm(self) -> None:
        """Nothing happens any more, at no point."""
        for index in range(_ENTRY_CNT):
            self._store(index, 0)

    def is_armed(self, index: int) -> bool:
        """Whether it is still to happen."""
        return bool(self._load(_ENTRIES_AT + index * _ENTRY_BYTES))

    def hits(self) -> list[Hit]:
        """The last hits, at most 32, oldest first; ARM is no hit."""
        found = []
        total = self._load(_HIT_CNT_AT)
        for number in range(max(0, total - _HIT_CNT), total):
            pid, generation, when_ns, action, stored, point = _HIT.unpack_from(
                self._page, _HITS_AT + number % _HIT_CNT * _HIT.size
            )
            if stored == number + 1 and action != Action.ARM.value:
                name = point.rstrip(b"\0").decode()
                found.append(Hit(number, name, Action(action), pid, generation, when_ns))
        return found

    def wait(self, timeout_s: float, *, after: int = -1) -> Hit:
        """Waits for the first hit with a number greater than ``after``.

        Raises:
            RigError: none in time; says what was armed.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            for hit in self.hits():
                if hit.number > after:
                    return hit
            if time.monotonic() > deadline:
                armed = [self._point(i) for i in range(_ENTRY_CNT) if self.is_armed(i)]
                raise RigError(f"no failpoint was hit in {timeout_s} s; armed: {armed}")
            time.sleep(_POLL_S)

    def close(self) -> None:
        """Lets go of the page; the file stays."""
        self._page.close()

    def _free(self, but: int = -1) -> int:
        for index in range(_ENTRY_CNT):
            if index != but and not self.is_armed(index):
                return index
        raise RigError(f"all {_ENTRY_CNT} entries are armed")

    def _fill(
        self,
        index: int,
        point: str,
        action: Action,
        argument: int,
        count: int,
        repeat: int,
        lba: int | None = None,
    ) -> int:
        if point not in POINTS + SPARSE_POINTS:
            raise RigError(f"there is no point {point!r}: see chaos.rig.failpoints.POINTS")
        if count < 1 or repeat < 1:
            raise RigError(f"count {count} and repeat {repeat} must be at least 1")
        self._serial += 1
        at = _ENTRIES_AT + index * _ENTRY_BYTES
        name = point.encode()
        wanted = 0 if lba is None else lba + 1
        fields = (0, action.value, argument, count, count, repeat, 0, self._serial, name, wanted)
        _ENTRY.pack_into(self._page, at, *fields)
        return index

    def _point(self, index: int) -> str:
        fields = _ENTRY.unpack_from(self._page, _ENTRIES_AT + index * _ENTRY_BYTES)
        return bytes(fields[-2]).rstrip(b"\0").decode()

    def _load(self, at: int) -> int:
        return int.from_bytes(self._page[at : at + 4], "little")

    def _store(self, index: int, armed: int) -> None:
        struct.pack_into("<I", self._page, _ENTRIES_AT + index * _ENTRY_BYTES, armed)
