"""The journal reader against the C header, and against damaged files."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import uuid
from pathlib import Path

import pytest

from obdsup.errors import StateError
from obdsup.state import journal
from obdsup.state.journal import JournalCounters, JournalReader
from tests.conftest import REPO

BOOT, DEVICE = uuid.uuid4(), uuid.uuid4()
SLOT_BYTES = struct.calcsize("<IIIHHIHH32sQ") + 256 * 8


def make_journal(slots: list[tuple[int, int]] | None = None, generation: int = 7) -> bytearray:
    """A journal of four slots; ``slots`` are (state, sequence)."""
    raw = bytearray(4096 + 4 * SLOT_BYTES)
    struct.pack_into(
        "<8sII16s16sIIIIIIQ", raw, 0, b"OBDJRNL\0", 1, 4096, BOOT.bytes, DEVICE.bytes, 4,
        SLOT_BYTES, 256, 128, 1 << 20, 0, 65 << 20,
    )  # fmt: skip
    struct.pack_into("<I", raw, 124, journal.crc32c(bytes(raw[:124])))
    struct.pack_into("<QQQ", raw, 128, generation, (99 << 32) | 448, 4096)
    struct.pack_into("<IIII", raw, 192, 1, 2, 128, 256)
    struct.pack_into("<24Q", raw, 256, *range(1, 25))
    for index, (state, sequence) in enumerate(slots or []):
        offset = 4096 + index * SLOT_BYTES
        struct.pack_into("<IIIHH", raw, offset, state, sequence, 64, 5, 10)
    return raw


@pytest.fixture
def read(tmp_path: Path):  # type: ignore[no-untyped-def]
    fds = []

    def open_reader(raw: bytes) -> JournalReader:
        path = tmp_path / f"inflight{len(fds)}"
        path.write_bytes(raw)
        fds.append(os.open(path, os.O_RDONLY))
        return JournalReader(fds[-1], str(path))

    yield open_reader
    for fd in fds:
        os.close(fd)


def test_crc32c_is_castagnoli() -> None:
    assert journal.crc32c(b"123456789") == 0xE3069283


def test_reads_every_part(read) -> None:  # type: ignore[no-untyped-def]
    reader = read(make_journal([(0, 0), (2, 12), (1, 11)]))
    header = reader.header()
    assert (header.boot_id, header.device_uuid) == (str(BOOT), str(DEVICE))
    assert (header.slot_cnt, header.slot_bytes, header.cmdr_off) == (4, SLOT_BYTES, 128)
    assert reader.generation() == 7
    assert reader.next_position() == (99, 448)
    assert reader.append_reserved_bytes() == 4096
    assert reader.publication() == journal.Publication(True, 2, 128, 256)
    assert reader.counters() == JournalCounters(*range(1, 25))
    assert [(s.sequence, s.state) for s in reader.slots()] == [(11, "valid"), (12, "executing")]


def test_names_the_commands_that_have_a_thread(read) -> None:  # type: ignore[no-untyped-def]
    raw = make_journal([(2, 5), (1, 6), (0, 0), (2, 8)])
    struct.pack_into("<4I", raw, journal.THREADS_OFFSET, 501, 502, 503, 504)
    struct.pack_into("<I", raw, journal.THREADS_OFFSET + 4 * 9, 510)  # beyond the last slot
    struct.pack_into("<H32sQ", raw, 4096 + 3 * SLOT_BYTES + 22, 2, b"\x28" + bytes(31), 77)
    found = read(raw).executing()
    assert [(c.slot, c.tid, c.sequence) for c in found] == [(0, 501, 5), (3, 504, 8)]
    assert (found[1].picked_up_ns, found[1].attempts, found[1].cdb) == (77, 2, b"\x28" + bytes(9))


@pytest.mark.parametrize("length", [0, 3000, 4096, 4096 + 3 * SLOT_BYTES])
def test_a_short_journal_executes_what_it_holds(read, length: int) -> None:  # type: ignore[no-untyped-def]
    raw = make_journal([(2, 5), (0, 0), (0, 0), (2, 8)])
    struct.pack_into("<4I", raw, journal.THREADS_OFFSET, 501, 0, 0, 504)
    found = read(raw[:length]).executing()
    assert [c.slot for c in found] == ([0] if length > 4096 else [])


@pytest.mark.parametrize("offset", [0, 8, 12, 16, 32, 48, 52, 56, 60, 64, 72, 100, 124])
def test_one_wrong_byte_in_the_header_is_refused(read, offset: int) -> None:  # type: ignore[no-untyped-def]
    raw = make_journal()
    raw[offset] ^= 0x40
    with pytest.raises(StateError):
        read(raw).header()


@pytest.mark.parametrize("length", [0, 1, 127, 128, 4096, 4096 + 3 * SLOT_BYTES])
def test_a_truncated_journal_is_refused_and_never_a_crash(read, length: int) -> None:  # type: ignore[no-untyped-def]
    reader = read(make_journal()[:length])
    with pytest.raises(StateError):
        reader.slots()
    reader.counters()
    assert reader.generation() in (0, 7)


def test_a_generation_that_none_could_follow_is_damage(read) -> None:  # type: ignore[no-untyped-def]
    raw = make_journal()
    for value, expected in ((1 << 62, 1 << 62), ((1 << 62) + 1, 0), ((1 << 64) - 1, 0)):
        raw[128:136] = value.to_bytes(8, "little")
        assert read(raw).generation() == expected


def test_unknown_slot_state_is_refused(read) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(StateError, match="state of slot 0"):
        read(make_journal([(9, 1)])).slots()


def test_layout_equals_the_c_header(tmp_path: Path) -> None:
    """Compiles the C declarations and compares sizes and offsets with the reader's."""
    names = list(JournalCounters.__dataclass_fields__)
    probes = [f'printf("{n} %zu\\n", offsetof(struct obd_journal_counters, {n}));' for n in names]
    slot = ["state", "sequence", "ring_offset", "cmd_id", "cdb_bytes", "iov_cnt", "old_starts",
            "deaths", "cdb", "picked_up_ns"]  # fmt: skip
    probes += [f'printf("slot.{n} %zu\\n", offsetof(struct obd_journal_slot, {n}));' for n in slot]
    probes.append('printf("counters %zu\\n", sizeof(struct obd_journal_counters));')
    probes.append('printf("threads %u\\n", OBD_JOURNAL_THREADS);')
    probes.append('printf("version %u\\n", OBD_JOURNAL_VERSION);')
    probes.append('printf("generation_max %lu\\n", OBD_JOURNAL_GENERATION_MAX);')
    source = tmp_path / "probe.c"
    source.write_text(
        "#include <stddef.h>\n#include <stdio.h>\n"
        f'#include "{REPO}/native/src/obd_journal.h"\nint main(void) {{ {"".join(probes)} }}\n'
    )
    subprocess.run(["gcc", "-o", tmp_path / "probe", source], check=True)
    out = subprocess.run([tmp_path / "probe"], capture_output=True, text=True, check=True).stdout
    found = dict(re.findall(r"(\S+) (\d+)", out))
    assert int(found["counters"]) == journal.COUNTERS.size
    assert 4 * int(found["threads"]) == journal.THREADS.size
    assert int(found["version"]) == journal.LAYOUT_VERSION
    assert int(found["generation_max"]) == journal.GENERATION_MAX
    assert [int(found[name]) for name in names] == [8 * i for i in range(len(names))]
    formats = ["I", "I", "I", "H", "H", "I", "H", "H", "32s", "Q"]
    offsets = [struct.calcsize("<" + "".join(formats[:i])) for i in range(len(formats))]
    assert [int(found[f"slot.{name}"]) for name in slot] == offsets


def test_table_in_the_c_header_names_the_same_offsets() -> None:
    text = (REPO / "native/src/obd_journal.h").read_text()
    table = {n: int(o) for o, n in re.findall(r"\|\s+(\d+) \|\s+\S+ \| (\w+)", text)}
    assert table["generation"] == journal.GENERATION_OFFSET
    assert table["crc32c"] == journal.CRC_OFFSET
    assert table["pub_valid"] == journal.PUBLICATION_OFFSET
    assert table["counters"] == journal.COUNTERS_OFFSET
    assert table["threads"] == journal.THREADS_OFFSET
