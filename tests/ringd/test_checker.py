"""Planted faults under the load front end: each gets its name, at its place; a good disk gets none.

The disk is the fake worker's bytearray, read here by the layout of a stamp alone.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import eventually
from tests.ringd.fake_worker import Command, FakeWorker
from tests.ringd.ring import LoadRing

pytestmark = pytest.mark.integration

SECTOR = 512
SPAN_SECTORS = 512
READ, WRITE, UNMAP = 0x88, 0x8A, 0x42
STAMP = struct.Struct("<QQQQII")  # magic, run, device, lba, sequence, generation
WRONG = ("errors", "lost", "stale", "misplaced", "corrupt", "unfinished")


@dataclass(frozen=True)
class Stamp:
    magic: int
    run: int
    device: int
    lba: int
    sequence: int
    generation: int


class CheckedRing:
    """A load of writes, reads and discards, stepped command by command, and its disk."""

    def __init__(self, folder: Path, *options: str) -> None:
        folder.mkdir(exist_ok=True)
        self.journal = folder / "journal"
        self.ring = LoadRing(
            folder, "--qd", "4", "--max-sectors", "16", "--span", str(SPAN_SECTORS * SECTOR),
            "--discard-percent", "5", "--flush-percent", "2", "--journal", str(self.journal),
            *options, disk_bytes=1 << 20,
        )  # fmt: skip
        self.disk = self.ring.disk
        self.worker = self.ring.worker()
        self.held: list[Command] = []

    def become(self, generation: int) -> None:
        """The journal names another owner."""
        page = bytearray(4096)
        page[0:8] = b"OBDJRNL\0"
        struct.pack_into("<Q", page, 256 + 24, generation)
        new = self.journal.with_suffix(".new")
        new.write_bytes(page)
        new.rename(self.journal)

    def serve(self, cnt: int, execute: Callable[[FakeWorker, Command], None] | None = None) -> None:
        served = 0
        while served < cnt:
            for command in self.worker.pick_up_some(1):
                (execute or FakeWorker.execute)(self.worker, command)
                self.worker.publish(command.cmd_id)
                served += 1
            self.worker.kick()

    def begin_read_back(self) -> None:
        """Ends generating; the first reads of the read-back are on the ring, not yet executed."""
        self.ring.ringd.finish()
        while self.ring.ringd.stat().values["phase"] != "read_back" or not self.held:
            for command in self.worker.pick_up():
                if self.ring.ringd.stat().values["phase"] == "read_back":
                    self.held.append(command)
                    continue
                self.worker.execute(command)
                self.worker.publish(command.cmd_id)
            self.worker.kick()
            self.worker.wait(0.01)

    def report(self) -> dict[str, Any]:
        for command in self.held:
            self.worker.execute(command)
            self.worker.publish(command.cmd_id)
        self.worker.kick()
        self.worker.start()
        return self.ring.report()

    def sector(self, lba: int) -> bytes:
        return bytes(self.disk[lba * SECTOR : (lba + 1) * SECTOR])

    def put(self, lba: int, data: bytes) -> None:
        self.disk[lba * SECTOR : lba * SECTOR + len(data)] = data

    def stamps(self) -> dict[int, Stamp]:
        """Of each sector that holds one."""
        found = {}
        for lba in range(SPAN_SECTORS):
            stamp = Stamp(*STAMP.unpack_from(self.disk, lba * SECTOR))
            if stamp.magic:
                assert stamp.lba == lba
                found[lba] = stamp
        return found


Rings = Callable[..., CheckedRing]


@pytest.fixture
def rings(tmp_path: Path) -> Iterator[Rings]:
    started: list[CheckedRing] = []

    def start(*options: str) -> CheckedRing:
        started.append(CheckedRing(tmp_path / str(len(started)), *options))
        return started[-1]

    yield start
    for ring in started:
        ring.ring.close()


def counts(report: dict[str, Any]) -> dict[str, int]:
    return {name: report[name] for name in WRONG if report[name]}


# -- on the disk, found at the read-back ----------------------------------------------------------


@dataclass(frozen=True)
class Past:
    """The disk as it was, and one of another device, for faults to put back."""

    old: bytes
    other: CheckedRing

    def old_sector(self, lba: int) -> bytes:
        return self.old[lba * SECTOR : (lba + 1) * SECTOR]


def rewritten(ring: CheckedRing, past: Past) -> int:
    """A sector that held an older stamp of its own."""
    stamps = ring.stamps()
    return next(
        lba
        for lba in stamps
        if any(past.old_sector(lba)) and past.old_sector(lba) != ring.sector(lba)
    )


def late_duplicate(ring: CheckedRing, past: Past) -> list[int]:
    lba = rewritten(ring, past)
    ring.put(lba, past.old_sector(lba))
    return [lba]


def zeros(ring: CheckedRing, past: Past) -> list[int]:
    lba = list(ring.stamps())[3]
    ring.put(lba, bytes(SECTOR))
    return [lba]


def discard_that_comes_back(ring: CheckedRing, past: Past) -> list[int]:
    gone = (lba for lba in range(SPAN_SECTORS) if not any(ring.sector(lba)))
    lba = next(lba for lba in gone if any(past.old_sector(lba)))
    ring.put(lba, past.old_sector(lba))
    return [lba]


def another_lba(ring: CheckedRing, past: Past) -> list[int]:
    here, there = list(ring.stamps())[3], list(ring.stamps())[30]
    ring.put(here, ring.sector(there))
    return [here]


def another_device(ring: CheckedRing, past: Past) -> list[int]:
    lba = next(lba for lba in ring.stamps() if lba in past.other.stamps())
    ring.put(lba, past.other.sector(lba))
    return [lba]


def another_device_where_nothing_was_written(ring: CheckedRing, past: Past) -> list[int]:
    stamps, others = ring.stamps(), past.other.stamps()
    unused = (lba for lba in others if not any(past.old_sector(lba)) and lba not in stamps)
    lba = next(unused)
    ring.put(lba, past.other.sector(lba))
    return [lba]


def shifted_by_one(ring: CheckedRing, past: Past) -> list[int]:
    stamps = ring.stamps()
    lba = next(lba for lba in stamps if all(lba + i in stamps for i in range(9)))
    ring.put(lba + 1, b"".join(ring.sector(lba + i) for i in range(8)))
    return [lba + 1 + i for i in range(8)]


def torn(ring: CheckedRing, past: Past) -> list[int]:
    lba = rewritten(ring, past)
    ring.put(lba, ring.sector(lba)[:256] + past.old_sector(lba)[256:])
    return [lba]


def flipped_bit(ring: CheckedRing, past: Past) -> list[int]:
    lba = list(ring.stamps())[3]
    ring.disk[lba * SECTOR + 17] ^= 0x40  # in the head: the device's name
    return [lba]


def freed_block(ring: CheckedRing, past: Past) -> list[int]:
    lba = list(ring.stamps())[3]
    ring.put(lba, b"\xdb" * SECTOR)
    return [lba]


FAULTS: dict[Callable[[CheckedRing, Past], list[int]], str] = {
    late_duplicate: "lost",
    zeros: "lost",
    discard_that_comes_back: "lost",
    another_lba: "misplaced",
    another_device: "misplaced",
    another_device_where_nothing_was_written: "misplaced",
    shifted_by_one: "misplaced",
    torn: "corrupt",
    flipped_bit: "corrupt",
    freed_block: "corrupt",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_on_the_disk_is_found_by_name(
    rings: Rings, fault: Callable[[CheckedRing, Past], list[int]]
) -> None:
    other = rings("--name", "other", "--seed", "9")
    other.serve(400)
    ring = rings("--survey")
    ring.serve(SPAN_SECTORS // 16)  # the survey
    ring.serve(150)
    old = bytes(ring.disk)
    ring.serve(300)
    ring.begin_read_back()
    lbas = fault(ring, Past(old, other))
    report = ring.report()
    assert counts(report) == {FAULTS[fault]: len(lbas)}, ring.ring.log()
    for lba, finding in zip(lbas, report["findings"], strict=True):
        assert finding["kind"] == FAULTS[fault]
        assert f"device test lba {lba}: expected " in finding["text"]
        assert "final read-back" in finding["text"]
        assert finding["text"] in ring.ring.log()


def test_data_of_a_former_run_is_lost_not_corrupt(rings: Rings) -> None:
    former = rings()
    former.serve(300)
    ring = rings("--seed", "2")
    ring.serve(300)
    ring.begin_read_back()
    lba = next(lba for lba in ring.stamps() if lba in former.stamps())
    ring.put(lba, former.sector(lba))
    report = ring.report()
    assert counts(report) == {"lost": 1}
    assert "of another run" in report["findings"][0]["text"]


# -- by a worker that does not do as it says, found while it runs ---------------------------------


def lost_writes(worker: FakeWorker, command: Command) -> None:
    if command.opcode != WRITE:
        worker.execute(command)


def ignored_discards(worker: FakeWorker, command: Command) -> None:
    if command.opcode != UNMAP:
        worker.execute(command)


def writes_of_zeros(worker: FakeWorker, command: Command) -> None:
    if command.opcode == WRITE:
        at = command.lba * SECTOR
        worker.disk[at : at + command.data_bytes] = bytes(command.data_bytes)
    else:
        worker.execute(command)


def reads_that_fill_nothing_in(worker: FakeWorker, command: Command) -> None:
    if command.opcode != READ:
        worker.execute(command)


def reads_with_a_flipped_bit(worker: FakeWorker, command: Command) -> None:
    worker.execute(command)
    if command.opcode == READ:
        offset, length = command.iovs[-1]
        worker.map[offset + length - 1] ^= 0x10


@pytest.mark.parametrize(
    ("execute", "kind"),
    [
        (lost_writes, "stale"),
        (ignored_discards, "stale"),
        (writes_of_zeros, "stale"),
        (reads_that_fill_nothing_in, "corrupt"),
        (reads_with_a_flipped_bit, "corrupt"),
    ],
)
def test_a_worker_that_lies_is_found_while_it_runs(
    rings: Rings, execute: Callable[[FakeWorker, Command], None], kind: str
) -> None:
    ring = rings("--discard-percent", "20", "--span", str(64 * SECTOR))
    ring.serve(300)
    ring.serve(300, execute)
    assert "device test lba " in eventually(ring.ring.log)
    ring.ring.ringd.finish()
    report = ring.report()
    assert report[kind] > 0
    # A flipped bit in zeros of a discard, or blocks nobody filled in, are nothing but corrupt.
    assert set(counts(report)) <= {kind, "lost"}, report


# -- a good disk ----------------------------------------------------------------------------------


def test_a_good_disk_is_never_complained_about(rings: Rings) -> None:
    ring = rings("--qd", "32", "--discard-percent", "10")
    ring.worker.start()
    eventually(lambda: ring.ring.ringd.stat().number("completed") > 5000, 60)
    ring.ring.ringd.finish()
    assert counts(ring.ring.report()) == {}


def test_0xdb_is_data_like_any_other_unless_blocks_are_filled_with_it(rings: Rings) -> None:
    for options in (("--no-verify",), ()):
        ring = rings(*options)
        ring.disk[:] = b"\xdb" * len(ring.disk)
        ring.worker.start()
        ring.ring.ringd.finish()
        found = counts(ring.ring.report())
        assert found.keys() <= ({"corrupt"} if not options else set())
        assert bool(found) == (not options)


def test_findings_name_the_generations(rings: Rings) -> None:
    ring = rings("--discard-percent", "0")
    ring.become(3)
    ring.serve(200)
    eventually(lambda: _serve_until(ring, 3))
    old = bytes(ring.disk)
    ring.become(4)
    eventually(lambda: _serve_until(ring, 4))
    ring.begin_read_back()
    lba = next(lba for lba, stamp in ring.stamps().items() if stamp.generation == 4
               and any(old[lba * SECTOR : (lba + 1) * SECTOR]))  # fmt: skip
    new = ring.stamps()[lba]
    ring.put(lba, old[lba * SECTOR : (lba + 1) * SECTOR])
    was = ring.stamps()[lba]
    (finding,) = ring.report()["findings"]
    assert (
        f"expected acknowledged sequence {new.sequence} (generation 4) or later, "
        f"found sequence {was.sequence} (generation {was.generation}); " in finding["text"]
    )
    assert "answered by generation 4" in finding["text"]


def _serve_until(ring: CheckedRing, generation: int) -> bool:
    """Serves some more; whether half of the sectors were written under this generation."""
    ring.serve(50)
    stamps = ring.stamps().values()
    return sum(stamp.generation == generation for stamp in stamps) > len(stamps) / 2


def test_commands_are_all_in_the_latency_file(rings: Rings, tmp_path: Path) -> None:
    path = tmp_path / "latency"
    ring = rings("--latency", str(path))
    ring.serve(500)
    ring.ring.ringd.finish()
    report = ring.report()
    rows = [[int(word) for word in line.split()] for line in path.read_text().splitlines()]
    assert sum(row[1] for row in rows) == report["commands"]
    assert [row[0] for row in rows] == sorted({row[0] for row in rows})
    assert all(total >= ended - begun > 0 for _, _, total, begun, ended in rows)


def test_a_ledger_keeps_what_a_killed_load_knew(rings: Rings, tmp_path: Path) -> None:
    ledger = str(tmp_path / "ledger")
    ring = rings("--ledger", ledger)
    ring.serve(400)
    lba = list(ring.stamps())[5]
    ring.put(lba, bytes(SECTOR))
    ring.ring.process.kill()
    ring.ring.process.wait(timeout=30)
    second = rings("--ledger", ledger, "--read-percent", "100", "--discard-percent", "0",
                   "--flush-percent", "0")  # fmt: skip
    second.disk[:] = ring.disk
    second.begin_read_back()
    report = second.report()
    assert set(counts(report)) <= {"lost", "stale"}
    assert any(f"lba {lba}: " in finding["text"] for finding in report["findings"])
    lbas = {finding["text"].split("lba ")[1].split(":")[0] for finding in report["findings"]}
    assert lbas == {str(lba)}
