"""obdsup-sectors against files that the test alters behind its back, and one loop device.

Silent on a good device; each planted fault is found under the right name, at the right LBA.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from chaos.rig.faultfs import FaultFs
from tests.conftest import REPO, eventually

pytestmark = pytest.mark.native

SECTOR = 512
SECTOR_CNT = 2048
LEDGER_HEADER, LEDGER_SECTOR = 4096 + 65536 * 8, struct.Struct("<IIIII")
ZEROS = ("errors", "lost", "stale", "misplaced", "corrupt", "unfinished")


@pytest.fixture(scope="session")
def program() -> Path:
    """The program, built where no other one is in use."""
    out = "build/pytest"
    subprocess.run(
        ["make", "-s", "-C", str(REPO / "native"), f"OUT={out}", f"BIN={out}", "sectors"],
        check=True,
        capture_output=True,
    )
    return REPO / "native" / out / "obdsup-sectors"


@dataclass(frozen=True)
class LedgerRow:
    """What the ledger says of one sector: read here anew, not by the program."""

    lba: int
    acked: int
    issued: int
    discarded: int
    flushed: int


class Disk:
    """A file that plays the device, and the program's runs on it."""

    def __init__(self, program: Path, folder: Path, name: str = "disk") -> None:
        self.path = folder / f"{name}.img"
        self.ledger = folder / f"{name}.ledger"
        self._program = program
        self._report = folder / f"{name}.json"
        self.path.write_bytes(bytes(SECTOR_CNT * SECTOR))

    def command(self, *options: str) -> list[str]:
        self._report.unlink(missing_ok=True)
        return [str(self._program), "--json", str(self._report), *options, str(self.path)]

    def report(self) -> dict[str, Any]:
        found = json.loads(self._report.read_text())
        assert isinstance(found, dict)
        return found

    def run(self, *options: str, code: int = 0) -> dict[str, Any]:
        """One run to its end; exit code and report must agree."""
        done = subprocess.run(self.command(*options), capture_output=True, text=True, check=False)
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        report = self.report()
        assert report["good"] == (code == 0)
        assert json.loads(done.stdout) == report
        return report

    def write_some(self, *options: str) -> dict[str, Any]:
        return self.run("--ledger", str(self.ledger), "--qd", "8", "--max-sectors", "16",
                        "--operations", "1500", "--name", "disk", *options)  # fmt: skip

    def verify(self, *options: str, code: int = 0) -> dict[str, Any]:
        return self.run("--ledger", str(self.ledger), "--verify-only", *options, code=code)

    def rows(self) -> list[LedgerRow]:
        data = self.ledger.read_bytes()[LEDGER_HEADER:] if self.ledger.exists() else b""
        return [LedgerRow(lba, *row[:4]) for lba, row in enumerate(LEDGER_SECTOR.iter_unpack(data))]

    def written(self) -> list[int]:
        """Sectors whose newest content is that of a write."""
        return [row.lba for row in self.rows() if row.acked > row.discarded]

    def sector(self, lba: int) -> bytes:
        return self.path.read_bytes()[lba * SECTOR : (lba + 1) * SECTOR]

    def put(self, lba: int, data: bytes) -> None:
        with self.path.open("r+b") as file:
            file.seek(lba * SECTOR)
            file.write(data)


@pytest.fixture
def disk(program: Path, tmp_path: Path) -> Disk:
    return Disk(program, tmp_path)


def counts(report: dict[str, Any]) -> dict[str, int]:
    return {name: report[name] for name in ZEROS if report[name]}


# -- a good device --------------------------------------------------------------------------------


@pytest.mark.parametrize("before", ["zeros", "0xdb", "random"])
def test_a_good_device_is_never_complained_about(disk: Disk, before: str) -> None:
    size = SECTOR_CNT * SECTOR
    content = {
        "zeros": bytes(size),
        "0xdb": b"\xdb" * size,
        "random": random.Random(1).randbytes(size),
    }
    disk.path.write_bytes(content[before])
    report = disk.run("--operations", "6000", "--qd", "16", "--discard-percent", "15",
                      "--flush-percent", "2", "--span", str(SECTOR * 900),
                      "--offset", "4096")  # fmt: skip
    assert counts(report) == {}
    assert report["read_back"] == 900
    assert min(report[kind] for kind in ("reads", "writes", "discards", "flushes")) > 50


def test_what_was_there_before_is_known_from_a_file(disk: Disk, tmp_path: Path) -> None:
    base = random.Random(2).randbytes(1000 * SECTOR)
    (tmp_path / "base").write_bytes(base)
    disk.put(0, base)
    expect = ("--expect", str(tmp_path / "base"))
    assert disk.run("--read-only", *expect, "--operations", "500")["read_back"] == SECTOR_CNT
    disk.run(*expect, "--operations", "500")


def test_operations_are_all_in_the_latency_file(disk: Disk, tmp_path: Path) -> None:
    path = tmp_path / "latency"
    report = disk.run("--operations", "2000", "--latency", str(path))
    rows = [[int(word) for word in line.split()] for line in path.read_text().splitlines()]
    assert sum(row[1] for row in rows) == report["commands"]
    assert [row[0] for row in rows] == sorted({row[0] for row in rows})
    for begin_ns, operation_cnt, total_ns, worst_begun_ns, worst_ended_ns in rows:
        assert begin_ns % 20_000_000 == 0
        assert total_ns >= worst_ended_ns - worst_begun_ns >= total_ns // operation_cnt


@contextlib.contextmanager
def background(disk: Disk, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """A run that goes on until the test ends it, and writes sectors it had not written."""
    before = sum(row.acked > 0 for row in disk.rows())
    command = disk.command("--ledger", str(disk.ledger), "--qd", "8", *options)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        eventually(lambda: sum(row.acked > 0 for row in disk.rows()) > before)
        yield process
    finally:
        process.kill()
        process.wait(timeout=30)


def test_it_ends_when_told_and_reads_back(disk: Disk) -> None:
    with background(disk) as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    assert disk.report()["read_back"] == SECTOR_CNT


def test_a_killed_run_goes_on_where_it_was(disk: Disk) -> None:
    for _ in range(3):
        with background(disk, "--max-sectors", "8", "--read-percent", "80"):
            pass
        assert disk.verify()["read_back"] == SECTOR_CNT
    assert disk.run("--ledger", str(disk.ledger), "--operations", "500")["good"]


# -- planted faults -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Past:
    """What a fault can put back: the disk after a first run, and another device."""

    before: bytes  # all of the disk, when it was as old as the test
    old: bytes  # after a first run
    other: Disk

    def old_sector(self, lba: int) -> bytes:
        return self.old[lba * SECTOR : (lba + 1) * SECTOR]


def rewritten(disk: Disk, past: Past) -> int:
    """A sector that both runs wrote."""
    was_written = (lba for lba in disk.written() if any(past.old_sector(lba)))
    return next(lba for lba in was_written if past.old_sector(lba) != disk.sector(lba))


def lost_write(disk: Disk, past: Past) -> int:
    lba = rewritten(disk, past)
    disk.put(lba, past.old_sector(lba))
    return lba


def zeros(disk: Disk, past: Past) -> int:
    lba = disk.written()[5]
    disk.put(lba, bytes(SECTOR))
    return lba


def discard_that_comes_back(disk: Disk, past: Past) -> int:
    lba = next(
        row.lba
        for row in disk.rows()
        if row.acked and row.acked == row.discarded and any(past.old_sector(row.lba))
    )
    disk.put(lba, past.old_sector(lba))
    return lba


def another_run(disk: Disk, past: Past) -> int:
    lba = next(lba for lba in disk.written() if lba in set(past.other.written()))
    disk.put(lba, past.other.sector(lba))
    return lba


def another_lba(disk: Disk, past: Past) -> int:
    here, there = disk.written()[3], disk.written()[20]
    disk.put(here, disk.sector(there))
    return here


def shifted_by_one(disk: Disk, past: Past) -> int:
    written = set(disk.written())
    lba = next(lba for lba in written if {lba + i for i in range(9)} <= written)
    disk.put(lba + 1, b"".join(disk.sector(lba + i) for i in range(8)))
    return lba + 1


def torn_sector(disk: Disk, past: Past) -> int:
    lba = rewritten(disk, past)
    disk.put(lba, disk.sector(lba)[:256] + past.old_sector(lba)[256:])
    return lba


def flipped_bit(disk: Disk, past: Past) -> int:
    lba = disk.written()[7]
    data = bytearray(disk.sector(lba))
    data[300] ^= 0x10
    disk.put(lba, bytes(data))
    return lba


def freed_block(disk: Disk, past: Past) -> int:
    lba = disk.written()[7]
    disk.put(lba, b"\xdb" * SECTOR)
    return lba


def never_written_changed(disk: Disk, past: Past) -> int:
    lba = next(row.lba for row in disk.rows() if row.issued == 0)
    disk.put(lba, b"\x01" * SECTOR)
    return lba


FAULTS: dict[Callable[[Disk, Past], int], tuple[str, str]] = {
    lost_write: ("lost", "found sequence "),
    zeros: ("lost", "found zeros"),
    discard_that_comes_back: ("lost", "a discard, or later, found sequence"),
    another_run: ("lost", "of another run"),
    another_lba: ("misplaced", "of lba "),
    shifted_by_one: ("misplaced", "of lba "),
    torn_sector: ("corrupt", "with other bytes from 256 to 512"),
    flipped_bit: ("corrupt", "with other bytes from 300 to 301"),
    freed_block: ("corrupt", "0xdb in every byte (a data block nobody filled in?)"),
    never_written_changed: ("corrupt", "expected what it held before this run, found 0x01"),
}


@pytest.fixture
def past(disk: Disk, program: Path, tmp_path: Path) -> Past:
    """Two runs behind the disk, of which the first is remembered; a third device with one run."""
    before = disk.path.read_bytes()
    other = Disk(program, tmp_path, "other")
    other.write_some("--seed", "1")  # the same name: another run of this device
    disk.write_some("--seed", "1", "--span", str(SECTOR * SECTOR_CNT))
    old = disk.path.read_bytes()
    disk.write_some("--seed", "2", "--discard-percent", "10", "--operations", "500")
    return Past(before, old, other)


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_is_found(disk: Disk, past: Past, fault: Callable[[Disk, Past], int]) -> None:
    kind, text = FAULTS[fault]
    disk.verify()
    lba = fault(disk, past)
    report = disk.verify(code=1)
    assert set(counts(report)) == {kind}
    first = report["findings"][0]
    assert first["kind"] == kind
    assert f"device disk lba {lba}: " in first["text"]
    assert text in first["text"]


def test_another_devices_sector_is_misplaced(disk: Disk, program: Path, tmp_path: Path) -> None:
    other = Disk(program, tmp_path, "other")
    other.run("--ledger", str(other.ledger), "--operations", "1500", "--name", "other")
    disk.write_some()
    lba = next(lba for lba in disk.written() if lba in set(other.written()))
    disk.put(lba, other.sector(lba))
    unwritten = next(r.lba for r in disk.rows() if not r.issued and any(other.sector(r.lba)))
    disk.put(unwritten, other.sector(unwritten))
    report = disk.verify(code=1)
    assert counts(report) == {"misplaced": 2}
    assert all("of another device" in finding["text"] for finding in report["findings"])


def test_what_is_older_than_acknowledged_is_stale_while_it_runs(disk: Disk, past: Past) -> None:
    disk.put(0, past.before)  # as a device would that lost everything
    report = disk.run("--ledger", str(disk.ledger), "--read-percent", "100", "--operations", "300",
                      "--discard-percent", "0", "--flush-percent", "0", "--name", "disk",
                      "--no-read-back", code=1)  # fmt: skip
    assert set(counts(report)) == {"stale"}
    assert len(report["findings"]) == 20 < report["stale"]


def test_a_read_only_device_is_compared_with_its_file(disk: Disk, tmp_path: Path) -> None:
    base = random.Random(3).randbytes(SECTOR_CNT * SECTOR)
    (tmp_path / "base").write_bytes(base)
    disk.path.write_bytes(base)
    disk.put(70, base[71 * SECTOR : 72 * SECTOR])
    disk.put(900, b"\x07" * SECTOR)
    report = disk.run("--verify-only", "--expect", str(tmp_path / "base"), code=1)
    assert counts(report) == {"misplaced": 1, "corrupt": 1}
    assert "lba 70: " in report["findings"][0]["text"]
    assert "found what lba 71 held before" in report["findings"][0]["text"]
    assert disk.run("--read-only", "--expect", str(tmp_path / "base"), "--operations", "400",
                    code=1)["corrupt"]  # fmt: skip


# -- power cuts -----------------------------------------------------------------------------------

UNFLUSHED = ("--flush-percent", "0", "--fua-percent", "0", "--discard-percent", "5",
             "--no-read-back", "--operations", "400")  # fmt: skip


def cut_power(disk: Disk, before: bytes, seed: int) -> None:
    """Each sector changed since ``before`` keeps its old or its new content."""
    after, chance = disk.path.read_bytes(), random.Random(seed)
    sides = [(before, after)[chance.random() < 0.5] for _ in range(SECTOR_CNT)]
    disk.path.write_bytes(
        b"".join(side[i * SECTOR : (i + 1) * SECTOR] for i, side in enumerate(sides))
    )


def flush(disk: Disk) -> None:
    """A run that only flushes."""
    disk.write_some("--read-percent", "0", "--discard-percent", "0", "--flush-percent", "100",
                    "--operations", "1", "--no-read-back")  # fmt: skip


@pytest.mark.parametrize("seed", [1, 2])
def test_after_a_power_cut_only_what_was_flushed_must_be_there(disk: Disk, seed: int) -> None:
    disk.write_some("--seed", str(seed))
    flush(disk)
    assert all(row.flushed == row.acked for row in disk.rows())
    before = disk.path.read_bytes()
    disk.write_some("--seed", str(seed + 10), *UNFLUSHED)
    cut_power(disk, before, seed)
    assert disk.verify(code=1)["lost"] > 10  # all that was acknowledged is not there
    assert counts(disk.verify("--durable-only")) == {}


def test_a_power_cut_takes_nothing_that_was_flushed(disk: Disk) -> None:
    disk.write_some()
    before = disk.path.read_bytes()
    disk.write_some("--seed", "2", *UNFLUSHED)
    flush(disk)
    cut_power(disk, before, 1)
    assert disk.verify("--durable-only", code=1)["lost"] > 10


@pytest.mark.parametrize(
    ("wrong", "kind"), [(b"\x01" * SECTOR, "corrupt"), (bytes(SECTOR), "lost")]
)
def test_a_power_cut_leaves_nothing_else(disk: Disk, wrong: bytes, kind: str) -> None:
    disk.path.write_bytes(random.Random(4).randbytes(SECTOR_CNT * SECTOR))
    disk.write_some(*UNFLUSHED)
    lba = next(row.lba for row in disk.rows() if row.acked and not row.discarded)
    assert disk.rows()[lba].flushed == 0  # old and new are legal, and nothing but these
    disk.put(lba, wrong)
    assert counts(disk.verify("--durable-only", code=1)) == {kind: 1}


def test_between_two_copies_of_the_ledger_both_are_legal(disk: Disk, tmp_path: Path) -> None:
    disk.write_some()
    flush(disk)
    first = shutil.copy(disk.ledger, tmp_path / "first")
    before = disk.path.read_bytes()
    disk.write_some("--seed", "2", *UNFLUSHED)
    flush(disk)
    cut_power(disk, before, 3)
    assert disk.verify("--durable-only", code=1)["lost"] > 10
    assert counts(disk.verify("--since", first)) == {}
    disk.path.write_bytes(bytes(SECTOR_CNT * SECTOR))
    assert disk.verify("--since", first, code=1)["lost"] > 10


# -- errors, and who answered ---------------------------------------------------------------------


def test_errors_are_counted_and_go_on(disk: Disk) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024 * SECTOR, 1024 * SECTOR))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    command = disk.command("--operations", "300", "--discard-percent", "0")
    done = subprocess.run(
        command, preexec_fn=limit, restore_signals=False, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert report["complete"]
    assert set(counts(report)) == {"errors"}
    assert set(report["errnos"]) <= {"27", "61"}  # too large; a part of it was written
    assert report["errnos"]["27"] > 10
    assert sum(report["errnos"].values()) == report["errors"]
    assert any("errno 27 (File too large); WRITE of" in f["text"] for f in report["findings"])


def test_findings_name_the_worker_generations(disk: Disk, tmp_path: Path) -> None:
    journal = tmp_path / "inflight"

    def serve(generation: int) -> tuple[str, str]:
        page = bytearray(4096)
        page[0:8] = b"OBDJRNL\0"
        struct.pack_into("<Q", page, 256 + 24, generation)
        journal.write_bytes(page)
        return "--journal", str(journal)

    disk.write_some(*serve(7))
    old = disk.path.read_bytes()
    disk.write_some("--seed", "2", *serve(8))
    lba = rewritten(disk, Past(b"", old, disk))
    sequences = struct.unpack_from("<I", old, lba * SECTOR + 32)[0], disk.rows()[lba].acked
    disk.put(lba, old[lba * SECTOR : (lba + 1) * SECTOR])
    report = disk.verify(*serve(9), code=1)
    (finding,) = report["findings"]
    assert (
        f"expected acknowledged sequence {sequences[1]} (generation 8) or later, "
        f"found sequence {sequences[0]} (generation 7); " in finding["text"]
    )
    assert "answered by generation 9, final read-back" in finding["text"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "one block device or file is needed"),
        (["/nowhere/disk"], "/nowhere/disk: No such file"),
        (["--qd", "0", "{disk}"], "not understood: 0 (value out of bounds?)"),
        (["--speed", "{disk}"], "not understood: --speed"),
        (["--read-percent", "99", "--flush-percent", "9", "{disk}"], "more than 100"),
        (["--verify-only", "{disk}"], "needs --ledger or --expect"),
        (["--durable-only", "{disk}"], "go with --verify-only --ledger"),
        (["--span", "1000", "{disk}"], "multiples of 512"),
        (["--span", "512000000", "{disk}"], "it ends before the end of the span"),
        (["--ledger", "{disk}", "{disk}"], "this is not a ledger"),
        (["--verify-only", "--ledger", "/nowhere/l", "{disk}"], "/nowhere/l: No such file"),
        (["--expect", "/nowhere/e", "{disk}"], "/nowhere/e: No such file"),
        (["/dev/null"], "not a file either"),
    ],
)
def test_mistakes_are_told(disk: Disk, program: Path, options: list[str], said: str) -> None:
    disk.path.write_bytes(b"\x01" * SECTOR * SECTOR_CNT)
    arguments = [option.format(disk=disk.path) for option in options]
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert said in done.stderr


def test_a_ledger_of_another_device_is_refused(disk: Disk) -> None:
    disk.write_some()
    command = disk.command("--ledger", str(disk.ledger), "--name", "another")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "of another device, offset or span: give the same --name" in done.stderr


# -- a block device -------------------------------------------------------------------------------


@pytest.fixture
def loop(disk: Disk) -> Iterator[Path]:
    made = subprocess.run(
        ["losetup", "--find", "--show", str(disk.path)], capture_output=True, text=True, check=True
    )
    yield Path(made.stdout.strip())
    subprocess.run(["losetup", "--detach", made.stdout.strip()], check=True)


@pytest.mark.host
def test_a_block_device_in_use_is_refused_and_a_free_one_is_checked(
    disk: Disk, program: Path, loop: Path
) -> None:
    options = ["--operations", "2000", "--discard-percent", "10", "--flush-percent", "2"]
    held = os.open(loop, os.O_RDWR | os.O_EXCL)  # as a mount does
    done = subprocess.run([program, *options, loop], capture_output=True, text=True, check=False)
    os.close(held)
    assert done.returncode == 2
    assert "mounted or in use" in done.stderr
    done = subprocess.run([program, *options, loop], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["discards"] > 50
    assert not report["discards_refused"]


@pytest.fixture
def silent(disk: Disk, tmp_path: Path) -> Iterator[FaultFs]:
    """The folder of the disk through a file system that fails and holds reads as told."""
    with FaultFs(disk.path.parent, tmp_path.parent / f"{tmp_path.name}-faultfs") as file_system:
        yield file_system


def read_only(program: Path, silent: FaultFs, disk: Disk, *options: str) -> list[str]:
    path = silent.mount_point / disk.path.name
    return [str(program), "--read-only", "--qd", "4", *options, str(path)]


@pytest.mark.host
def test_a_failed_read_is_an_error_and_nothing_else(
    disk: Disk, program: Path, silent: FaultFs
) -> None:
    silent.fail(disk.path.name, 1000 * SECTOR, 1001 * SECTOR)
    command = read_only(program, silent, disk, "--operations", "500")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    assert set(counts(report)) == {"errors"}
    assert report["complete"]
    assert set(report["errnos"]) == {"5"}
    assert "errno 5 (Input/output error); READ of" in report["findings"][0]["text"]


@pytest.mark.host
def test_an_operation_that_does_not_end_is_reported_not_waited_for(
    disk: Disk, program: Path, silent: FaultFs
) -> None:
    silent.hold(disk.path.name)
    command = read_only(program, silent, disk, "--drain-seconds", "1")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        eventually(lambda: silent.counts().holding == 4)
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        report = json.loads(process.stdout.readline())  # though its threads can not end
    finally:
        silent.clear()
        process.communicate(timeout=30)
    assert process.returncode == 1
    assert counts(report) == {"unfinished": 4}
    assert not report["complete"]
