"""info, verify, diff, repair: on sound files and on damaged ones."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from obdsup.errors import AlreadyServed, ConfigError, FormatError
from obdsup.format import config, lsmt_header, zeroes
from obdsup.format.config import ImageConfig
from obdsup.format.image import Image
from obdsup.format.lsmt_header import LsmtFlags, LsmtHeader
from obdsup.format.sparse_writer import SparseWriter
from obdsup.format.upper_writer import UpperWriter, create_upper
from obdsup.format.zfile_header import Algorithm
from obdsup.image.commit import LayerOptions, Sources, write_layer
from obdsup.image.diff import compare_disks
from obdsup.image.export import disk_sha256, export_disk
from obdsup.image.import_disk import import_disk
from obdsup.image.info import describe_file, describe_image, kind_of, load
from obdsup.image.repair import repair_upper
from obdsup.image.verify import verify_image
from obdsup.image.zfile import ZFileOptions
from tests.format.disk_model import GOLDEN

SECTOR = 512
SIZE = 256 * SECTOR
UUID = "11111111-2222-3333-4444-555555555555"
OTHER_UUID = "99999999-2222-3333-4444-555555555555"


def content(value: int, sectors: int) -> bytes:
    return bytes([value]) * (sectors * SECTOR)


def written_pair(folder: Path, **facts: Any) -> tuple[str, str]:
    """Three records: 1 at [0, 8), 2 at [4, 12), a discard of [100, 104)."""
    pair = str(folder / "data"), str(folder / "index")
    create_upper(*pair, SIZE, **facts)
    writer = UpperWriter(*pair)
    writer.write(0, content(1, 8))
    writer.write(4, content(2, 8))
    writer.discard(100, 4)
    writer.close()
    return pair


def read(pair: tuple[str, str]) -> bytes:
    with Image(load(*pair)) as image:
        return image.read(0, SIZE)


def layer_of(pair: tuple[str, str], target: Path, **facts: Any) -> Path:
    options = LayerOptions(zfile=ZFileOptions(Algorithm.LZ4, 4096), **facts)
    write_layer(Sources(upper=pair), str(target), options)
    return target


def stack(folder: Path, *lowers: Path) -> ImageConfig:
    path = folder / "config.v1.json"
    path.write_text(json.dumps({"lowers": [{"file": str(lower)} for lower in lowers]}))
    return config.load(str(path))


# ---- info ----


def test_every_kind_of_file_is_recognised(tmp_path: Path) -> None:
    pair = written_pair(tmp_path)
    sparse = str(tmp_path / "s.data"), str(tmp_path / "s.index")
    create_upper(*sparse, SIZE, is_sparse=True)
    layer = layer_of(pair, tmp_path / "layer.obd")
    (tmp_path / "junk").write_bytes(b"junk" * 5000)
    expected = {pair[0]: "data", pair[1]: "index", sparse[0]: "sparse", str(layer): "layer"}
    for path, kind in expected.items():
        assert kind_of(path) == kind
    assert kind_of(str(tmp_path / "junk")) == "other"
    assert describe_file(str(tmp_path / "junk"), "other")["error"]
    assert describe_file(pair[1], "index")["records"] == 3
    with pytest.raises(ConfigError):
        kind_of(str(tmp_path / "missing"))


def test_damaged_layer_does_not_hide_the_others(tmp_path: Path) -> None:
    pair = written_pair(tmp_path)
    good = layer_of(pair, tmp_path / "good.obd")
    bad = tmp_path / "bad.obd"
    bad.write_bytes(good.read_bytes()[:-700])
    facts: Any = describe_image(stack(tmp_path, good, bad))
    assert facts["lowers"][0]["segments"] == 2
    assert "bad.obd" in facts["lowers"][1]["error"]
    assert len(facts["problems"]) == 1


def test_broken_chain_of_uuids_is_a_warning(tmp_path: Path) -> None:
    pair = written_pair(tmp_path)
    base = layer_of(pair, tmp_path / "base.obd", uuid=UUID)
    right = layer_of(pair, tmp_path / "right.obd", parent_uuid=UUID)
    wrong = layer_of(pair, tmp_path / "wrong.obd", parent_uuid=OTHER_UUID)
    assert describe_image(stack(tmp_path, base, right))["warnings"] == []
    (warning,) = describe_image(stack(tmp_path, base, wrong))["warnings"]  # type: ignore[misc]
    assert OTHER_UUID in warning
    assert UUID in warning


# ---- verify ----


def test_damaged_block_names_layer_offset_and_disk_range(tmp_path: Path) -> None:
    pair = written_pair(tmp_path)
    good = layer_of(pair, tmp_path / "good.obd")
    bad = tmp_path / "bad.obd"
    raw = bytearray(good.read_bytes())
    with Image.of_layer(str(good)) as image:
        zfile = image.lowers[0].zfile
        assert zfile is not None
        offset, length = zfile.table.starts[1], 8
    raw[offset : offset + length] = bytes(length)
    bad.write_bytes(raw)
    found = verify_image(stack(tmp_path, good, bad))
    assert found.damage_cnt == 1
    (damage,) = found.damages
    assert damage.layer == 1
    assert damage.error.fields["path"] == str(bad)
    assert damage.disk_ranges == [(0, 8 * SECTOR)]
    assert verify_image(stack(tmp_path, good)).damage_cnt == 0


def test_layer_that_does_not_open_is_one_damage(tmp_path: Path) -> None:
    (tmp_path / "junk.obd").write_bytes(bytes(9000))
    found = verify_image(stack(tmp_path, tmp_path / "junk.obd"))
    assert [damage.layer for damage in found.damages] == [0]


# ---- export, import, diff ----


def test_export_digest_and_import_agree_with_the_reader(tmp_path: Path) -> None:
    for name in sorted(GOLDEN.glob("*.obd")):
        image = load(str(name))
        with Image(image) as oracle:
            assert disk_sha256(image) == oracle.sha256(), name
        disk = tmp_path / f"{name.name}.raw"
        export_disk(image, str(disk))
        assert compare_disks(image, str(disk)).is_equal
        layer = tmp_path / name.name
        import_disk(str(disk), str(layer), LayerOptions())
        assert compare_disks(load(str(layer)), image).is_equal


def test_diff_names_the_ranges(tmp_path: Path) -> None:
    pair = written_pair(tmp_path)
    left, right = tmp_path / "left.raw", tmp_path / "right.raw"
    export_disk(load(*pair), str(left))
    disk = bytearray(left.read_bytes())
    disk[3 * SECTOR] ^= 1
    disk[5 * SECTOR : 7 * SECTOR] = bytes(2 * SECTOR)
    disk[7 * SECTOR] ^= 1
    right.write_bytes(disk + content(9, 1))
    found = compare_disks(str(left), str(right))
    assert found.ranges == [
        (3 * SECTOR, 4 * SECTOR),
        (5 * SECTOR, 8 * SECTOR),
        (SIZE, SIZE + SECTOR),
    ]
    assert found.differing_bytes == 5 * SECTOR
    assert not found.is_equal


# ---- repair ----


def test_sound_layer_is_left_alone(tmp_path: Path) -> None:
    pair = written_pair(tmp_path)
    before = [Path(name).read_bytes() for name in pair]
    assert not repair_upper(*pair).is_changed
    assert [Path(name).read_bytes() for name in pair] == before
    assert not os.path.exists(pair[1] + ".orig")


def test_record_beyond_the_data_is_dropped_and_named(tmp_path: Path) -> None:
    pair = written_pair(tmp_path)
    index = Path(pair[1]).read_bytes()
    damaged = bytearray(index)
    damaged[4096 + 16 + 8 : 4096 + 16 + 11] = b"\xff\xff\xff"  # moffset of the second
    Path(pair[1]).write_bytes(damaged + b"torn")
    with pytest.raises(FormatError):
        read(pair)
    done = repair_upper(*pair)
    assert done.dropped == [(4096 + 16, 4 * SECTOR, 12 * SECTOR)]
    assert done.torn_bytes == 4
    assert read(pair)[: 12 * SECTOR] == content(1, 8) + bytes(4 * SECTOR)
    assert Path(pair[1] + ".orig").read_bytes() == bytes(damaged) + b"torn"
    assert not repair_upper(*pair).is_changed
    Path(pair[1]).write_bytes(damaged)
    with pytest.raises(ConfigError, match="earlier repair"):
        repair_upper(*pair)


@pytest.mark.parametrize("which", [0, 1])
def test_damaged_header_is_made_from_the_other(tmp_path: Path, which: int) -> None:
    pair = written_pair(tmp_path, parent_uuid=UUID)
    before, disk = [Path(name).read_bytes() for name in pair], read(pair)
    Path(pair[which]).write_bytes(bytes(64) + before[which][64:])
    with pytest.raises(FormatError):
        read(pair)
    done = repair_upper(*pair)
    assert done.headers_made == [pair[which]]
    assert [Path(name).read_bytes() for name in pair] == before
    assert read(pair) == disk
    assert Path(pair[which] + ".orig").read_bytes()[:64] == bytes(64)


def test_two_layers_or_two_bad_headers_are_not_repaired(tmp_path: Path) -> None:
    pair = written_pair(tmp_path)
    (tmp_path / "other").mkdir()
    other = written_pair(tmp_path / "other")
    with pytest.raises(FormatError, match="uuid"):
        repair_upper(pair[0], other[1])
    for name in pair:
        Path(name).write_bytes(bytes(4096) + Path(name).read_bytes()[4096:])
    with pytest.raises(FormatError, match="neither"):
        repair_upper(*pair)


def test_layer_in_use_is_not_repaired(tmp_path: Path) -> None:
    pair = written_pair(tmp_path)
    from obdsup.image.native import ffi, lib
    from obdsup.image.spec import image_spec

    keep: list[Any] = []
    image = ffi.new("struct obd_image **")
    assert lib.obd_image_create(image_spec(load(*pair), keep), ffi.NULL, image) == 0
    try:
        assert lib.obd_image_start_writing(image[0], ffi.new("uint64_t *"), ffi.NULL) == 0
        with pytest.raises(AlreadyServed):
            repair_upper(*pair)
    finally:
        lib.obd_image_destroy(image[0])
    assert not repair_upper(*pair).is_changed


def test_damaged_record_of_zeroes_is_dropped(tmp_path: Path) -> None:
    pair = str(tmp_path / "data"), str(tmp_path / "index")
    create_upper(*pair, SIZE, is_sparse=True)
    writer = SparseWriter(*pair)
    writer.discard(0, 8)
    writer.discard(16, 8)
    writer.close()
    record = Path(pair[0] + zeroes.SUFFIX)
    raw = bytearray(record.read_bytes())
    raw[zeroes.HEADER_BYTES] ^= 1
    record.write_bytes(raw)
    with pytest.raises(FormatError, match="repair"):
        read(pair)
    done = repair_upper(*pair)
    assert (done.dropped_cnt, done.record_cnt) == (1, 1)
    read(pair)
    assert Path(f"{record}.orig").read_bytes() == bytes(raw)


def test_virtual_sizes_that_differ_follow_the_data_file(tmp_path: Path) -> None:
    pair = written_pair(tmp_path)
    index = Path(pair[1]).read_bytes()
    header = lsmt_header.decode(index[:4096], pair[1], 0)
    other = LsmtHeader(LsmtFlags.HEADER, SIZE * 2, 4096, uuid=header.uuid)
    Path(pair[1]).write_bytes(lsmt_header.encode(other) + index[4096:])
    assert repair_upper(*pair).is_changed
    assert Path(pair[1]).read_bytes() == index
