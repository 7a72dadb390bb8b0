"""Records that wait for a sync, beside the index file: how they are read, and written on."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest

from obdsup.errors import FormatError
from obdsup.format.lsmt_index import ENTRY_BYTES, INVALID_ENTRY, Segment, encode
from obdsup.format.pending import boot_id
from obdsup.format.units import Sectors
from obdsup.format.upper import Upper, open_upper
from obdsup.format.upper_writer import UpperWriter, create_upper

SIZE_BYTES = 1 << 20
HEADER_BYTES = 4096
REPO = Path(__file__).resolve().parents[2]


class Pair:
    """A pair with three synced writes, and its parts by name."""

    def __init__(self, folder: Path) -> None:
        self.data, self.index = folder / "data", folder / "index"
        self.pending = folder / "index.pending"
        self.uuid = create_upper(str(self.data), str(self.index), SIZE_BYTES)
        writer = UpperWriter(str(self.data), str(self.index))
        for n in range(3):
            writer.write(n, bytes([n + 1]) * 512)
        writer.sync()
        writer.close()

    def append_data(self, value: int) -> Segment:
        """A sector in the data file and the record that would name it, at LBA ``value``."""
        moffset = self.data.stat().st_size // 512
        with self.data.open("ab") as file:
            file.write(bytes([value]) * 512)
        return Segment(Sectors(value), Sectors(1), Sectors(moffset))

    def leave_pending(self, segments: list[Segment], *, boot: str = "", uuid: str = "") -> None:
        """As a worker that was killed leaves it."""
        header = struct.pack("<8sI4x36s4x37s", b"OBDPEND\0", 1, (boot or boot_id()).encode(),
                             (uuid or self.uuid).encode())  # fmt: skip
        index = self.index.read_bytes()
        raw = header.ljust(len(index) - ENTRY_BYTES, b"\0") + index[-ENTRY_BYTES:]
        self.pending.write_bytes(raw + encode(segments))

    def open(self) -> Upper:
        return open_upper(str(self.data), str(self.index))


def content(upper: Upper, lba: int) -> int | None:
    """The byte that fills a sector; None where nothing is mapped."""
    for segment in upper.map.lookup(lba, lba + 1):
        return upper.read_payload(segment.moffset, 1)[0]
    return None


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


def test_pending_records_of_this_boot_are_read_and_then_indexed(pair: Pair) -> None:
    pair.leave_pending([pair.append_data(7), pair.append_data(8)])
    upper = pair.open()
    assert (content(upper, 0), content(upper, 7), content(upper, 8)) == (1, 7, 8)
    upper.close()
    UpperWriter(str(pair.data), str(pair.index)).close()
    pair.pending.unlink()
    upper = pair.open()
    assert (content(upper, 7), upper.record_cnt) == (7, 5)
    upper.close()


@pytest.mark.parametrize("cut", range(1, 2 * ENTRY_BYTES + 1))
def test_a_flush_that_was_interrupted_anywhere_loses_nothing(pair: Pair, cut: int) -> None:
    pair.leave_pending([pair.append_data(7), pair.append_data(8)])
    whole = pair.pending.read_bytes()
    index = pair.index.read_bytes()
    pair.index.write_bytes(index + whole[len(index) : len(index) + cut])
    upper = pair.open()
    assert (content(upper, 7), content(upper, 8), upper.record_cnt) == (7, 8, 5)
    upper.close()
    UpperWriter(str(pair.data), str(pair.index)).close()
    assert pair.index.read_bytes() == index + whole[len(index) :]


@pytest.mark.parametrize("other", [{"boot": "0" * 36}, {"uuid": "1" * 36}])
def test_records_of_another_boot_or_pair_do_not_count(pair: Pair, other: dict[str, str]) -> None:
    pair.leave_pending([pair.append_data(7)], **other)
    upper = pair.open()
    assert (content(upper, 7), upper.record_cnt, upper.pending) == (None, 3, b"")
    upper.close()


@pytest.mark.parametrize("foreign_cnt", [1, 2, 3])
def test_what_was_pending_is_void_after_somebody_else_wrote(pair: Pair, foreign_cnt: int) -> None:
    pair.leave_pending([pair.append_data(7), pair.append_data(8)])
    with pair.index.open("ab") as file:
        for n in range(foreign_cnt):
            file.write(encode([pair.append_data(20 + n)]))
    upper = pair.open()
    assert (content(upper, 7), content(upper, 20)) == (None, 20)
    upper.close()


def test_a_pending_record_that_does_not_fit_ends_them(pair: Pair) -> None:
    good = pair.append_data(7)
    far = Segment(Sectors(8), Sectors(1), Sectors(1 << 30))
    pair.leave_pending([good, far, good._replace(offset=Sectors(9))])
    upper = pair.open()
    assert (content(upper, 7), content(upper, 8), content(upper, 9)) == (7, None, None)
    assert len(upper.pending) == ENTRY_BYTES
    upper.close()


def test_a_hole_up_to_a_sector_is_read_over_any_other_is_damage(pair: Pair) -> None:
    index = pair.index.read_bytes()
    sector = index + bytes(512 - len(index) % 512)
    pair.index.write_bytes(sector + encode([pair.append_data(7)]))
    upper = pair.open()
    assert (content(upper, 2), content(upper, 7), upper.torn_bytes) == (3, 7, 0)
    upper.close()
    pair.index.write_bytes(sector + INVALID_ENTRY + bytes(16) + encode([pair.append_data(8)]))
    with pytest.raises(FormatError, match="index record"):
        pair.open()


@pytest.mark.native
def test_the_engine_leaves_what_this_reads_and_takes_what_this_left(
    pair: Pair, prog_upper: Path, tmp_path: Path
) -> None:
    """Without a flush: the engine's own pending file, read here; then the other way round."""
    subprocess.run(
        [prog_upper, "write", pair.data, pair.index, "40", "2", "5"], check=True, timeout=60
    )
    upper = pair.open()
    assert upper.record_cnt == 3 + 5
    assert [content(upper, 40 + n) for n in range(5)] == [40, 41, 42, 43, 44]
    assert content(upper, 2) == 3
    upper.close()
    pair.pending.unlink()
    pair.leave_pending([pair.append_data(7)])
    disk = tmp_path / "disk"
    subprocess.run([prog_upper, "open", pair.data, pair.index, disk], check=True, timeout=60)
    found = disk.read_bytes()
    assert (found[7 * 512], found[40 * 512], found[2 * 512]) == (7, 0, 3)


@pytest.fixture(scope="session")
def prog_upper() -> Path:
    """The program that opens a pair through obd_image.h, built when needed."""
    out = "build/pytest"
    done = subprocess.run(
        ["make", "-s", "-C", str(REPO / "native"), f"OUT={out}", f"{out}/prog_upper"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return REPO / "native" / out / "prog_upper"
