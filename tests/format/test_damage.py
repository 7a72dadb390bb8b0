"""Damaged files: a named error or the right data, never wrong data and never another exception."""

from __future__ import annotations

from pathlib import Path

import pytest

from obdsup.errors import ConfigError, FormatError
from obdsup.format import lsmt_header, lsmt_index, zfile_header
from obdsup.format.blob import BytesBlob
from obdsup.format.image import Image
from obdsup.format.layer import LayerFile, open_layer
from obdsup.format.lsmt_header import LsmtFlags, LsmtHeader
from obdsup.format.stack import Stack
from obdsup.format.upper import Upper
from obdsup.format.upper_writer import UpperWriter, create_upper
from obdsup.format.zfile_header import Algorithm
from tests.format.disk_model import SECTOR, config_file, layer_bytes, layer_of, sector

SIZE_SECTORS = 64
CONTENT: dict[int, bytes | int] = {
    2: b"".join(sector(1000 + i) for i in range(9)),
    20: 3,
    40: b"".join(sector(2000 + i) for i in range(12)),
}


def disk_of(opened: LayerFile) -> bytes:
    """The first sectors, whatever the virtual size says."""
    layer = opened.layer
    stack = Stack([(layer, layer.segments, SIZE_SECTORS * SECTOR)])
    return stack.read(0, SIZE_SECTORS * SECTOR)


def read_or_error(raw: bytes) -> bytes | FormatError:
    try:
        return disk_of(layer_of(raw))
    except FormatError as error:
        return error


def flipped(raw: bytes, bit: int) -> bytes:
    changed = bytearray(raw)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_any_bit_of_a_compressed_layer_is_seen_or_harmless() -> None:
    raw = layer_bytes(CONTENT, SIZE_SECTORS, Algorithm.LZ4)
    right = disk_of(layer_of(raw))
    seen = 0
    for bit in range(len(raw) * 8):
        result = read_or_error(flipped(raw, bit))
        seen += isinstance(result, FormatError)
        assert isinstance(result, FormatError) or result == right, f"byte {bit // 8} bit {bit % 8}"
    # The trailer is not needed when the header has been written over.
    assert seen >= (len(raw) - 512) * 8 * 0.99


@pytest.mark.parametrize("area", ["header", "trailer"])
def test_any_bit_of_a_raw_layers_header_or_trailer_is_seen_or_harmless(area: str) -> None:
    raw = layer_bytes(CONTENT, SIZE_SECTORS)
    right = disk_of(layer_of(raw))
    at = 0 if area == "header" else len(raw) - 4096
    for bit in range(at * 8, (at + 512) * 8):
        result = read_or_error(flipped(raw, bit))
        assert isinstance(result, FormatError) or result == right, f"byte {bit // 8} bit {bit % 8}"
    for field, offset in (("magic", 0), ("magic", 8)):
        error = read_or_error(flipped(raw, (at + offset) * 8))
        assert isinstance(error, FormatError)
        assert error.fields["offset"] == at
        assert error.fields["field"] == field


@pytest.mark.parametrize(
    ("at", "field"),
    [(0, "magic"), (28, "digest"), (41, "digest"), (72, "digest"), (88, "digest")],
)
def test_error_names_the_field_of_a_zfile_header(at: int, field: str) -> None:
    raw = layer_bytes(CONTENT, SIZE_SECTORS, Algorithm.ZSTD)
    error = read_or_error(flipped(raw, at * 8))
    assert isinstance(error, FormatError)
    assert field in error.fields["field"] or field == "magic"


@pytest.mark.parametrize("algorithm", [None, Algorithm.LZ4, Algorithm.ZSTD])
def test_truncated_anywhere_is_an_error(algorithm: Algorithm | None) -> None:
    raw = layer_bytes(CONTENT, SIZE_SECTORS, algorithm)
    right = disk_of(layer_of(raw))
    table_end = len(raw) - (zfile_header.AREA_BYTES if algorithm else 0)
    for length in range(0, len(raw), 97):
        result = read_or_error(raw[:length])
        if length < table_end:
            assert isinstance(result, FormatError), length
        else:  # only the trailer is gone, which an overwritten header makes redundant
            assert isinstance(result, FormatError) or result == right


def test_block_damage_fails_only_the_reads_that_touch_it(tmp_path: Path) -> None:
    data = b"".join(sector(i) for i in range(1, 65))
    raw = bytearray(layer_bytes({0: data}, SIZE_SECTORS, Algorithm.LZ4))
    opened = layer_of(bytes(raw))
    assert opened.zfile is not None
    block = 3  # of the LSMT file: sectors 16 to 23 of the disk
    raw[opened.zfile.table.starts[block] + 9] ^= 4
    path = tmp_path / "layer.obd"
    path.write_bytes(raw)
    with Image.of_layer(str(path)) as image:
        with pytest.raises(FormatError, match="block 3 of") as caught:
            image.read(16 * SECTOR, SECTOR)
        assert caught.value.fields["path"] == str(path)
        assert caught.value.fields["offset"] == opened.zfile.table.starts[block]
        assert image.read(0, 16 * SECTOR) == data[: 16 * SECTOR]
        assert image.read(24 * SECTOR, 40 * SECTOR) == data[24 * SECTOR :]
        problems = list(image.problems())
    assert [(problem.layer, problem.error.fields["offset"]) for problem in problems] == [
        (0, opened.zfile.table.starts[block])
    ]


def test_claimed_counts_are_refused_before_they_are_allocated() -> None:
    flags = LsmtFlags.DATA | LsmtFlags.SEALED
    header = lsmt_header.encode(LsmtHeader(flags | LsmtFlags.HEADER, 1 << 30))
    for count in (1_000_000, 2**60, 2**64 - 1):
        trailer = lsmt_header.encode(LsmtHeader(flags, 1 << 30, 4096, count))
        with pytest.raises(FormatError, match="index_"):
            layer_of(header + trailer)
    for count in (10**9, 2**62):
        claimed = zfile_header.encode(
            zfile_header.ZFileHeader(
                zfile_header.ZFileFlags(0b11011),
                Algorithm.LZ4,
                4096,
                True,
                index_offset_bytes=512,
                index_entry_cnt=count,
                original_bytes=count * 4096 % 2**64,
            )
        )
        with pytest.raises(FormatError, match="index_"):
            layer_of(claimed + bytes(512))


@pytest.mark.parametrize(
    ("offset", "value", "field"),
    [(76, 0, "minilzo"), (76, 3, "algo"), (78, 1, "dictionary"), (72, 1, "block_size")],
)
def test_what_is_not_supported_is_refused_by_name(offset: int, value: int, field: str) -> None:
    area = bytearray(layer_bytes(CONTENT, SIZE_SECTORS, Algorithm.LZ4))
    area[32] &= 0b01111  # without a digest, as files of 2021
    area[offset] = value
    with pytest.raises(FormatError, match=field):
        layer_of(bytes(area))


def test_garbage_in_unused_fields_of_2021_is_ignored() -> None:
    raw = bytearray(layer_bytes(CONTENT, SIZE_SECTORS, Algorithm.LZ4))
    right = disk_of(layer_of(bytes(raw)))
    trailer = len(raw) - 512
    for at in (0, trailer):
        raw[at + 32] = raw[at + 32] & 0b00111 | 0b11100000
        raw[at + 35 : at + 40] = b"\xa5" * 5
        raw[at + 28 : at + 32] = b"\x5a" * 4
        raw[at + 64 : at + 72] = b"\x5a" * 8
        raw[at + 77] = raw[at + 79] = 0x77
    assert disk_of(layer_of(bytes(raw))) == right


def test_missing_and_wrong_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing-here: can not be opened"):
        open_layer(str(tmp_path / "nothing-here"))
    with pytest.raises(ConfigError, match="found a directory"):
        open_layer(str(tmp_path))
    (tmp_path / "text").write_text("not a layer" * 1000)
    with pytest.raises(FormatError, match="LSMT magic"):
        open_layer(str(tmp_path / "text"))


def written_pair(folder: Path) -> tuple[bytes, bytes, list[bytes]]:
    """Data file, index file, and the disk after 0, 1, 2 … records."""
    pair = (str(folder / "data"), str(folder / "index"))
    create_upper(*pair, SIZE_SECTORS * SECTOR)
    writer = UpperWriter(*pair)
    disks = [bytes(SIZE_SECTORS * SECTOR)]
    for step in range(8):
        disk = bytearray(disks[-1])
        begin, length = step * 5 % 40, 3 + step
        if step == 5:
            writer.discard(begin, length)
            data = bytes(length * SECTOR)
        else:
            data = b"".join(sector(100 * step + i + 1) for i in range(length))
            writer.write(begin, data)
        disk[begin * SECTOR : (begin + length) * SECTOR] = data
        disks.append(bytes(disk))
    writer.close()
    return Path(pair[0]).read_bytes(), Path(pair[1]).read_bytes(), disks


def upper_disk(data: bytes, index: bytes) -> bytes:
    upper = Upper(BytesBlob(data, "data"), BytesBlob(index, "index"))
    stack = Stack([(upper, list(upper.map), upper.header.virtual_size_bytes)])
    return stack.read(0, stack.size_bytes)


def test_index_torn_at_any_byte_reads_as_the_records_before(tmp_path: Path) -> None:
    data, index, disks = written_pair(tmp_path)
    for length in range(4096, len(index) + 1):
        assert upper_disk(data, index[:length]) == disks[(length - 4096) // 16]


def test_data_torn_at_any_sector_reads_as_the_records_it_still_holds(tmp_path: Path) -> None:
    data, index, disks = written_pair(tmp_path)
    assert len(disks) == 9
    for length in range(4096, len(data), 100):
        assert upper_disk(data[:length], index) in disks


def test_zeros_at_the_end_of_the_index_are_a_torn_tail(tmp_path: Path) -> None:
    data, index, disks = written_pair(tmp_path)
    assert upper_disk(data, index + bytes(4096)) == disks[-1]
    assert upper_disk(data, index + lsmt_index.INVALID_ENTRY * 3) == disks[-1]


def test_bad_record_before_a_good_one_is_refused(tmp_path: Path) -> None:
    data, index, _ = written_pair(tmp_path)
    broken = index[: 4096 + 32] + bytes(16) + index[4096 + 48 :]
    with pytest.raises(FormatError, match="index at byte 4128"):
        upper_disk(data, broken)


def test_writer_after_a_torn_tail_continues_the_good_records(tmp_path: Path) -> None:
    data, index, disks = written_pair(tmp_path)
    for torn in range(4096 + 33, 4096 + 48, 7):
        (tmp_path / "data").write_bytes(data + b"half a sector")
        (tmp_path / "index").write_bytes(index[:torn])
        writer = UpperWriter(str(tmp_path / "data"), str(tmp_path / "index"))
        writer.write(60, sector(4242))
        writer.close()
        expected = disks[2][: 60 * SECTOR] + sector(4242) + disks[2][61 * SECTOR :]
        pair = (tmp_path / "data", tmp_path / "index")
        with Image.open(config_file(tmp_path, [], pair)) as image:
            assert image.read(0, image.size_bytes) == expected


def test_pair_of_two_images_and_sparse_pair_are_refused(tmp_path: Path) -> None:
    data, index, _ = written_pair(tmp_path)
    (tmp_path / "other").mkdir()
    other, _, _ = written_pair(tmp_path / "other")
    with pytest.raises(FormatError, match="uuid"):
        upper_disk(other, index)
    sparse = data[:28] + bytes([0b10011]) + data[29:]
    with pytest.raises(FormatError, match="flags"):
        upper_disk(sparse, index)
