"""Commit, compact, merge and seal: the reference's bytes, and what they must read as."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from obdsup.errors import AlreadyServed, ConfigError, FormatError, NativeError
from obdsup.format.image import Image
from obdsup.format.lsmt_header import NULL_UUID
from obdsup.format.sparse_writer import SparseWriter
from obdsup.format.upper import open_upper
from obdsup.format.upper_writer import UpperWriter, create_upper
from obdsup.format.zfile_header import Algorithm
from obdsup.image.commit import LayerOptions, Sources, write_layer
from obdsup.image.merge import sources_of
from obdsup.image.seal import seal
from obdsup.image.zfile import ZFileOptions
from tests.format.disk_model import GOLDEN, config_file, layer_bytes, sector, substituted

M0 = Sources(upper=(str(GOLDEN / "m0.data"), str(GOLDEN / "m0.idx")))
M0_UUID = "000000AA-1111-4111-8111-111111111111"
LZ4 = ZFileOptions(Algorithm.LZ4, overwrites_header=True)
ZSTD = ZFileOptions(Algorithm.ZSTD, overwrites_header=True)


def digest(path: Path) -> str:
    with Image.of_layer(str(path)) as image:
        return image.sha256()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("m0.raw.obd", LayerOptions(uuid=M0_UUID)),
        ("m0.lz4.obd", LayerOptions(LZ4, uuid=M0_UUID)),
        ("m0.zstd.obd", LayerOptions(ZSTD, uuid=M0_UUID)),
        ("m0.tar.obd", LayerOptions(LZ4, uuid=M0_UUID, in_tar=True)),
    ],
)
def test_commit_gives_the_bytes_of_the_reference(
    tmp_path: Path, name: str, options: LayerOptions
) -> None:
    write_layer(M0, str(tmp_path / "out"), options)
    assert (tmp_path / "out").read_bytes() == (GOLDEN / name).read_bytes()


@pytest.mark.parametrize(
    ("kind", "zfile"),
    [
        ("raw", None),
        ("lz4", LZ4),
        ("lz4-32k", ZFileOptions(Algorithm.LZ4, 32768, overwrites_header=True)),
        ("lz4.tar", LZ4),
        ("zstd", ZSTD),
        ("zstd-16k", ZFileOptions(Algorithm.ZSTD, 16384, overwrites_header=True)),
    ],
)
def test_commit_of_a_stacked_upper_with_uuids_and_tag(
    vectors: Path, tmp_path: Path, kind: str, zfile: ZFileOptions | None
) -> None:
    stack = vectors / "stack"
    options = LayerOptions(
        zfile,
        uuid="00000001-2222-4222-8222-222222222222",
        parent_uuid="00000001-1111-4111-8111-111111111111",
        user_tag="layer-1",
        in_tar=kind.endswith("tar"),
    )
    pair = Sources(upper=(str(stack / "w1.data"), str(stack / "w1.idx")))
    done = write_layer(pair, str(tmp_path / "out"), options)
    assert (tmp_path / "out").read_bytes() == (stack / f"L1.{kind}.obd").read_bytes()
    assert done.file_bytes == (tmp_path / "out").stat().st_size


def test_merge_gives_the_bytes_of_the_reference(vectors: Path, tmp_path: Path) -> None:
    lowers = tuple(str(vectors / "stack" / f"L{i}.zstd.obd") for i in range(3))
    options = LayerOptions(ZFileOptions(), keeps_tags=True)
    write_layer(Sources(lowers), str(tmp_path / "out"), options)
    assert (tmp_path / "out").read_bytes() == (vectors / "stack" / "M.lz4.obd").read_bytes()


def test_seal_commit_and_compact_of_the_reference(vectors: Path, tmp_path: Path) -> None:
    rw = vectors / "rw"
    data, index, out = tmp_path / "data", tmp_path / "index", tmp_path / "out"
    shutil.copyfile(rw / "d1.data", data)
    shutil.copyfile(rw / "d1.idx", index)
    write_layer(Sources(upper=(str(data), str(index))), str(out), LayerOptions())
    assert out.read_bytes() == (rw / "d1.commit.obd").read_bytes()
    sealed = seal(str(data), str(index))
    assert data.read_bytes() == (rw / "d1.sealed.obd").read_bytes()
    assert sealed.garbage_bytes > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "index", "out"]
    options = LayerOptions(LZ4)
    write_layer(Sources((str(data),)), str(out), options, may_replace=True)
    assert out.read_bytes() == (rw / "d1.commit.lz4.obd").read_bytes()


def test_commit_of_a_sparse_layer(vectors: Path, tmp_path: Path) -> None:
    packed = vectors / "rw" / "e1.sparse.tar.zst"
    subprocess.run(["tar", "--zstd", "-xSf", packed, "-C", tmp_path], check=True)
    data, index = str(tmp_path / "e1.data"), str(tmp_path / "e1.idx")
    out = tmp_path / "out"
    write_layer(Sources(upper=(data, index)), str(out), LayerOptions(LZ4))
    assert out.read_bytes() == (vectors / "rw" / "e1.commit.lz4.obd").read_bytes()
    with locked(index), pytest.raises(AlreadyServed, match="somebody writes"):
        write_layer(Sources(upper=(data, index)), str(tmp_path / "other"), LayerOptions())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e1.data", "e1.idx", "out"]


def test_a_sparse_layer_sealed_in_place_reads_as_before(tmp_path: Path) -> None:
    data, index = str(tmp_path / "d"), str(tmp_path / "i")
    create_upper(data, index, 1 << 20, is_sparse=True)
    writer = SparseWriter(data, index)
    writer.write(8, sector(5) * 16)
    writer.discard(200, 16)
    writer.close()
    lower = tmp_path / "lower"
    lower.write_bytes(layer_bytes({0: sector(1) * 8, 200: sector(2) * 24}, 2048))
    with Image.open(config_file(tmp_path, [lower], (Path(data), Path(index)))) as image:
        expected = image.sha256()
    sealed = seal(data, index)
    assert sealed.garbage_bytes == 0
    with Image.open(config_file(tmp_path, [lower, Path(data)])) as image:
        assert image.sha256() == expected
    assert Path(data).stat().st_blocks * 512 < 200_000
    options = LayerOptions(LZ4)
    stack = Sources((str(lower), data))
    write_layer(stack, str(tmp_path / "merged"), options)
    assert digest(tmp_path / "merged") == expected


@contextmanager
def locked(index: str) -> Iterator[None]:
    """As by a worker that writes to the pair."""
    with open(index, "r+b") as held:
        fcntl.fcntl(held, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))
        yield


@contextmanager
def written_pair(folder: Path) -> Iterator[tuple[str, str, UpperWriter]]:
    data, index = str(folder / "u.data"), str(folder / "u.index")
    create_upper(data, index, 1 << 20)
    writer = UpperWriter(data, index)
    try:
        yield data, index, writer
    finally:
        writer.close()


def test_a_merge_reads_as_the_stack_and_hides_what_was_overwritten(tmp_path: Path) -> None:
    lower = tmp_path / "lower"
    lower.write_bytes(layer_bytes({0: sector(1) * 8, 100: sector(2) * 8}, 2048, Algorithm.LZ4))
    with written_pair(tmp_path) as (data, index, writer):
        writer.write(4, sector(3) * 2)
        writer.discard(100, 4)
    config = config_file(tmp_path, [lower], (Path(data), Path(index)))
    with Image.open(config) as image:
        expected = image.sha256()
    out = tmp_path / "out"
    done = write_layer(sources_of(config, with_upper=True), str(out), LayerOptions(ZSTD))
    assert digest(out) == expected
    assert done.data_bytes == 12 * 512
    assert done.zeroed_bytes == 4 * 512
    with_lowers_alone = sources_of(config, with_upper=False)
    write_layer(with_lowers_alone, str(out), LayerOptions(), may_replace=True)
    assert (
        digest(out)
        == hashlib.sha256(
            (sector(1) * 8).ljust(100 * 512, b"\0")
            + (sector(2) * 8).ljust((2048 - 100) * 512, b"\0")
        ).hexdigest()
    )


@pytest.mark.parametrize("kind", ["ext4.2", "gz.1"])
def test_a_merge_brings_what_targets_hold(vectors: Path, tmp_path: Path, kind: str) -> None:
    config = substituted(vectors / "turbo" / f"config.{kind}.json", tmp_path, "@VECTORS@", vectors)
    manifest = json.loads((vectors / "manifest.json").read_text())
    out = tmp_path / "out"
    write_layer(sources_of(config, with_upper=True), str(out), LayerOptions(LZ4))
    assert digest(out) == manifest["images"][f"turbo/config.{kind}.json"]["sha256"]


def test_extents_join_as_long_as_they_are_short_enough(tmp_path: Path) -> None:
    """Neighbours join below 16383 sectors, and that only with the same tag and kind."""
    size = 1 << 26
    data, index = str(tmp_path / "d"), str(tmp_path / "i")
    create_upper(data, index, size)
    writer = UpperWriter(data, index)
    for begin, length in ((8192, 8190), (0, 8192), (16382, 1), (30000, 16383), (46383, 5)):
        writer.write(begin, sector(begin % 251 + 1) * length)
    writer.close()
    out = tmp_path / "out"
    write_layer(Sources(upper=(data, index)), str(out), LayerOptions())
    with Image.of_layer(str(out)) as image:
        found = [(s.offset, s.length) for s in image.lowers[0].layer.segments]
    assert found == [(0, 16382), (16382, 1), (30000, 16383), (46383, 5)]


def test_parent_is_that_of_the_bottom_source_unless_given(tmp_path: Path) -> None:
    parent = "11111111-2222-3333-4444-55555555AAAA"
    data, index = str(tmp_path / "d"), str(tmp_path / "i")
    create_upper(data, index, 1 << 20, parent_uuid=parent)
    pair = Sources(upper=(data, index))
    done = write_layer(pair, str(tmp_path / "a"), LayerOptions(LZ4))
    assert (done.uuid, done.parent_uuid) == (NULL_UUID, parent)
    done = write_layer(Sources((str(tmp_path / "a"),)), str(tmp_path / "b"), LayerOptions())
    assert done.parent_uuid == parent
    done = write_layer(pair, str(tmp_path / "c"), LayerOptions(parent_uuid=""))
    assert done.parent_uuid == NULL_UUID
    assert done.segment_cnt == 0


def test_bad_options_and_sources_are_refused_by_name(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    with pytest.raises(ConfigError, match="user tag: expected at most 256"):
        write_layer(M0, out, LayerOptions(user_tag="x" * 257))
    with pytest.raises(ConfigError, match="8-4-4-4-12"):
        write_layer(M0, out, LayerOptions(uuid="nonsense"))
    with pytest.raises(ConfigError, match="found none"):
        write_layer(Sources(), out, LayerOptions())
    with pytest.raises(ConfigError):
        write_layer(Sources((str(tmp_path / "missing"),)), out, LayerOptions())
    with pytest.raises(FormatError):
        write_layer(Sources((str(GOLDEN / "m0.data"),)), out, LayerOptions())
    layer = tmp_path / "layer"
    layer.write_bytes(layer_bytes({0: sector(1)}))
    before = layer.read_bytes()
    with pytest.raises(ConfigError, match="is an input"):
        write_layer(Sources((str(layer),)), str(layer), LayerOptions(), may_replace=True)
    assert layer.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["layer"]
    empty = tmp_path / "empty.json"
    empty.write_text(json.dumps({"lowers": []}))
    with pytest.raises(ConfigError):
        sources_of(str(empty), with_upper=False)


def test_a_damaged_source_ends_the_commit_and_leaves_no_output(tmp_path: Path) -> None:
    raw = bytearray(layer_bytes({0: sector(7) * 64}, algorithm=Algorithm.ZSTD))
    layer = tmp_path / "layer"
    layer.write_bytes(raw)
    with Image.of_layer(str(layer)) as image:
        zfile = image.lowers[0].zfile
        assert zfile is not None
        raw[zfile.table.starts[2] + 3] ^= 1
    layer.write_bytes(raw)
    with pytest.raises(FormatError, match="zfile block crc"):
        write_layer(Sources((str(layer),)), str(tmp_path / "out"), LayerOptions(LZ4))
    assert [path.name for path in tmp_path.iterdir()] == ["layer"]


def test_a_pair_is_sealed_by_nobody_but_its_writer_and_once(tmp_path: Path) -> None:
    with written_pair(tmp_path) as (data, index, writer):
        writer.write(8, sector(9) * 3)
        writer.sync()
    created = Path(data).read_bytes()
    # the crash before the trailer: index behind the data, nothing names it
    Path(data).write_bytes(created + bytes(512))
    upper = open_upper(data, index)
    assert len(upper.map) == 1
    upper.close()
    seal(data, index)
    with Image.of_layer(data) as image:
        assert image.read(8 * 512, 3 * 512) == sector(9) * 3
    with pytest.raises(NativeError, match="sealed already"):
        seal(data, index)


def test_a_pair_in_use_is_not_sealed(tmp_path: Path) -> None:
    with written_pair(tmp_path) as (data, index, writer):
        writer.write(0, sector(1))
    before = Path(data).read_bytes()
    with locked(index), pytest.raises(AlreadyServed, match="somebody writes"):
        seal(data, index)
    assert Path(data).read_bytes() == before
