"""Power loss, without a guest: the log's reader, the crash states made of it, and the judges."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest

from chaos.power.crash_states import CrashPoint, Kind, Replay, choose_points
from chaos.power.file_load import file_content
from chaos.power.image_check import judge_file
from chaos.power.ledger import Acknowledged, Ledger
from chaos.power.log_writes import Entry, Flag, WriteLog
from chaos.power.stamps import SECTOR_BYTES, Change, SectorHistory, Verdict, read_stamp, stamped
from chaos.power.state_check import check_state
from chaos.rig.problem import RigError
from obdsup.state.database import Database
from obdsup.state.device import DeviceRow
from obdsup.state.tables import put_device

MAGIC = 0x006A736677736872
DISK_BYTES = 64 * 512


def log_bytes(entries: list[tuple[int, int, int, bytes]], *, cnt: int | None = None) -> bytes:
    """A log of (sector, sectors, flags, data or mark), written by the table in log_writes."""
    raw = struct.pack("<QQQI", MAGIC, 1, len(entries) if cnt is None else cnt, 512).ljust(
        512, b"\0"
    )
    for sector, sectors, flags, data in entries:
        is_mark = flags & 8
        head = struct.pack("<QQQQ", sector, sectors, flags, len(data) if is_mark else 0)
        raw += (head + (data if is_mark else b"")).ljust(512, b"\0")
        raw += b"" if is_mark else data
    return raw


def write(sector: int, value: int, sectors: int = 1, flags: int = 0) -> tuple[int, int, int, bytes]:
    return sector, sectors, flags, bytes([value]) * 512 * sectors


FLUSH = (0, 0, 1, b"")


def mark(text: str) -> tuple[int, int, int, bytes]:
    return 0, 0, 8, text.encode() + b"\0"


@pytest.fixture
def log_path(tmp_path: Path) -> Path:
    return tmp_path / "log"


def make_disk(
    log_path: Path, entries: list[tuple[int, int, int, bytes]], point: CrashPoint
) -> bytes:
    log_path.write_bytes(log_bytes(entries))
    log = WriteLog(str(log_path))
    parsed = list(log.entries())
    replay = Replay(log, parsed, log_path.with_name("base"), DISK_BYTES)
    target = log_path.with_name("disk")
    try:
        replay.make(point, target)
    finally:
        replay.close()
        log.close()
    return target.read_bytes()


def sector_of(disk: bytes, number: int) -> int:
    sector = disk[number * 512 : (number + 1) * 512]
    assert len(set(sector)) == 1
    return sector[0]


def test_log_is_read_with_flags_marks_and_data(log_path: Path) -> None:
    log_path.write_bytes(
        log_bytes([mark("begin"), write(3, 7, 2, flags=2), FLUSH, (5, 4, 4, b""), mark("disk/3")])
    )
    log = WriteLog(str(log_path))
    entries = list(log.entries())
    assert [e.mark for e in entries] == ["begin", "", "", "", "disk/3"]
    assert [e.flags for e in entries] == [Flag.MARK, Flag.FUA, Flag.FLUSH, Flag.DISCARD, Flag.MARK]
    assert [e.has_data for e in entries] == [False, True, False, False, False]
    assert log.data(entries[1]) == bytes([7]) * 1024
    assert log.end_bytes == log_path.stat().st_size
    log.close()


def test_damaged_logs_are_refused_or_read_but_never_beyond_their_end(log_path: Path) -> None:
    """Every field set to the extremes, every length, and noise: an error that names the log."""
    good = log_bytes([mark("begin"), write(3, 7, 2), FLUSH, write(9, 8, 3)])
    chance = random.Random(4)
    damaged = [good[:length] for length in range(0, len(good), 97)]
    for at in [*range(0, 32, 4), *range(512, 544, 4), *range(1024, 1056, 4)]:
        for value in (0, 1, 0x7FFFFFFF, 0xFFFFFFFF):
            damaged.append(good[:at] + struct.pack("<I", value) + good[at + 4 :])
    for _ in range(300):
        at = chance.randrange(len(good))
        damaged.append(good[:at] + chance.randbytes(8) + good[at + 8 :])
    refused = []
    for raw in damaged:
        log_path.write_bytes(raw)
        try:
            read_all(log_path)
        except RigError as error:
            refused.append(str(error))
    assert len(refused) > 80  # most bits of data and of the unused rest mean nothing
    assert all(str(log_path) in line for line in refused)


def read_all(path: Path) -> None:
    log = WriteLog(str(path))
    try:
        for entry in log.entries():
            if entry.has_data:
                assert len(log.data(entry)) == entry.sector_cnt * 512
    finally:
        log.close()


def test_all_before_a_flush_is_there_and_in_order(log_path: Path) -> None:
    entries = [write(1, 1), write(2, 2), write(1, 3), FLUSH, write(1, 4)]
    disk = make_disk(log_path, entries, CrashPoint(4, Kind.FLUSH, ""))
    assert [sector_of(disk, n) for n in (0, 1, 2)] == [0, 3, 2]
    disk = make_disk(log_path, entries, CrashPoint(5, Kind.ORDER, ""))
    assert sector_of(disk, 1) == 4


def test_unflushed_writes_come_in_every_combination_and_flushed_and_fua_always(
    log_path: Path,
) -> None:
    entries = [write(1, 1), FLUSH, write(2, 2), write(3, 3), write(4, 4, flags=2), write(5, 5)]
    seen = set()
    for seed in range(200):
        disk = make_disk(log_path, entries, CrashPoint(6, Kind.SUBSET, str(seed)))
        assert (sector_of(disk, 1), sector_of(disk, 4)) == (1, 4)
        seen.add(tuple(sector_of(disk, n) for n in (2, 3, 5)))
    assert seen == {(a, b, c) for a in (0, 2) for b in (0, 3) for c in (0, 5)}


def test_one_write_is_torn_at_a_sector(log_path: Path) -> None:
    entries = [write(0, 9, 16), FLUSH, write(0, 1, 16)]
    tears = set()
    for seed in range(100):
        disk = make_disk(log_path, entries, CrashPoint(3, Kind.TORN, str(seed)))
        values = [sector_of(disk, n) for n in range(16)]
        assert values == sorted(values)  # new ones first: all of 1, then the old 9
        tears.add(values.count(1))
    assert {0, 1, 8} <= tears
    assert 16 not in tears


def test_a_flush_that_carries_data_does_not_flush_itself(log_path: Path) -> None:
    entries = [write(1, 1), write(2, 2, flags=1)]
    seen = {
        sector_of(make_disk(log_path, entries, CrashPoint(2, Kind.SUBSET, str(seed))), 2)
        for seed in range(40)
    }
    assert seen == {0, 2}


def test_points_lie_between_the_marks_and_repeat_with_the_seed() -> None:
    def entry(flags: int, text: str = "", sectors: int = 0) -> Entry:
        return Entry(0, sectors, Flag(flags), 0, text)

    entries = [entry(1)] * 5 + [entry(8, "begin")]
    entries += [entry(0, sectors=1), entry(1)] * 30 + [entry(8, "end")] + [entry(1)] * 5
    points = choose_points(entries, 40, 1)
    assert len(points) == 40
    assert all(5 < point.entry_cnt <= 66 for point in points)
    assert {point.kind for point in points} == set(Kind)
    assert points == choose_points(entries, 40, 1) != choose_points(entries, 40, 2)
    few = choose_points(entries, 100, 1)
    assert sum(point.kind is Kind.FLUSH for point in few) == 30  # each flush, once


CHANGES = [Change(1, 0, 2), Change(2, 1, 2), Change(3, 1, 1, is_discard=True), Change(4, 1, 1)]


def disk_of(*versions: int | None) -> bytes:
    """A sector per argument: a version, or None for zeros."""
    return b"".join(
        bytes(SECTOR_BYTES) if version is None else stamped(lba, 1, version)
        for lba, version in enumerate(versions)
    )


@pytest.mark.parametrize(
    ("sectors", "durable", "lost", "corrupt"),
    [
        ((1, 4, 2, None), {1, 2, 3, 4}, 0, 0),
        ((None, None, None, None), set(), 0, 0),
        ((1, 1, None, None), {1}, 0, 0),
        ((1, 2, 2, None), {1}, 0, 0),  # newer than promised
        ((1, 1, 2, None), {1, 2}, 1, 0),  # sector 1: older than promised
        ((1, None, 2, None), {1, 2}, 0, 0),  # the discard, not promised, may have come
        ((1, None, 2, None), {1, 2, 3, 4}, 1, 0),  # and here it must not be seen any more
        ((None, 2, 2, None), {1, 2}, 1, 0),  # zeros where version 1 must be
        ((1, 2, 2, 2), {1, 2}, 0, 1),  # a sector nobody wrote
        ((1, 2, 4, None), {1, 2}, 1, 0),  # a version this sector never had
    ],
)
def test_a_sector_may_hold_what_was_promised_or_later_and_nothing_else(
    sectors: tuple[int | None, ...], durable: set[int], lost: int, corrupt: int
) -> None:
    verdict = SectorHistory(CHANGES).judge(disk_of(*sectors), durable)
    assert (len(verdict.lost), len(verdict.corrupt)) == (lost, corrupt)


def test_torn_mixed_and_misplaced_sectors_are_corrupt() -> None:
    good = disk_of(1, 4, 2)
    history = SectorHistory(CHANGES)
    for wrong in (good[:100] + b"x" + good[101:], good[:256] + stamped(0, 1, 2)[:256] + good[512:],
                  stamped(7, 1, 1) + good[512:]):  # fmt: skip
        verdict = history.judge(wrong, {1, 2, 3, 4})
        assert len(verdict.corrupt) == 1, verdict
    assert read_stamp(stamped(5, 1, 9)) == (5, 9)


@pytest.mark.parametrize(
    ("content", "lost", "corrupt"),
    [
        (file_content(3, 5, 4), 0, 0),
        (file_content(3, 6, 1), 0, 0),
        (file_content(3, 4, 4), 1, 0),
        (b"", 0, 1),
        (file_content(3, 5, 4)[:-1], 0, 1),
        (file_content(2, 5, 4), 0, 1),
        (file_content(3, 5, 2) + bytes(512), 0, 1),
        (bytes(512), 0, 1),
    ],
)
def test_a_file_is_whole_and_not_older_than_its_fsync(
    content: bytes, lost: int, corrupt: int
) -> None:
    verdict = Verdict()
    judge_file("f3", 5, content, verdict)
    assert (len(verdict.lost), len(verdict.corrupt)) == (lost, corrupt)


def test_marks_add_up_to_what_was_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    Ledger("ext4", 1, CHANGES, completed=[2, 1, 4, 3]).save(path)
    ledger = Ledger.load(path)
    marks = ["begin", "making/a", "made/a", "disk/2", "fua/3", "file/f1/7", "file/f1/5", "disk/1"]
    found = Acknowledged.from_marks(marks, ledger)
    assert found.durable == {1, 2, 3}
    assert (found.files, found.devices, found.unsure) == ({"f1": 7}, {"a"}, set())
    found = Acknowledged.from_marks([*marks, "making/b", "going/a"], ledger)
    assert (found.devices, found.unsure) == ({"a"}, {"a", "b"})
    assert Acknowledged.from_marks([*marks, "going/a", "gone/a"], ledger).devices == set()
    with pytest.raises(ValueError, match="nonsense"):
        Acknowledged.from_marks(["nonsense/1"], ledger)


def store_device(folder: Path, name: str, phase: str) -> None:
    database = Database(folder / "state.db")
    row = DeviceRow(name, "u", "/i", (), None, None, 512, "load", phase, 1.0, {})
    database.commit(put_device(row))
    database.close()


@pytest.mark.parametrize(
    ("phase", "devices", "unsure", "wrong"),
    [
        ("online", {"a"}, set(), ""),
        ("serving", {"a"}, set(), "not online"),
        ("serving", set(), {"a"}, ""),
        ("nonsense", set(), {"a"}, "phase"),
        ("online", set(), set(), "is back"),
        ("online", {"a", "b"}, set(), "device b was created and is gone"),
    ],
)
def test_state_is_what_was_acknowledged(
    tmp_path: Path, phase: str, devices: set[str], unsure: set[str], wrong: str
) -> None:
    store_device(tmp_path, "a", phase)
    found = check_state(tmp_path, Acknowledged(devices=devices, unsure=unsure))
    assert len(found) == bool(wrong)
    assert wrong in "".join(found)


def test_a_state_that_does_not_open_is_told(tmp_path: Path) -> None:
    assert check_state(tmp_path, Acknowledged()) == []
    assert check_state(tmp_path, Acknowledged(devices={"a"}))
    (tmp_path / "state.db").write_bytes(b"no database at all" * 500)
    assert "does not open" in check_state(tmp_path, Acknowledged())[0]
