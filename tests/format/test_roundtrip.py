"""What is written reads back: writable layers, sealed layers, stacks and ZFiles against a dict."""

from __future__ import annotations

import io
import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from obdsup.errors import AlreadyServed, ConfigError
from obdsup.format.blob import BytesBlob
from obdsup.format.image import Image
from obdsup.format.layer_writer import LayerWriter
from obdsup.format.lsmt_index import MAX_SEGMENT_SECTORS
from obdsup.format.raw_disk import RawDisk
from obdsup.format.stack import Stack
from obdsup.format.upper import open_upper
from obdsup.format.upper_writer import UpperWriter, create_upper
from obdsup.format.zfile import ZFile
from obdsup.format.zfile_header import Algorithm
from obdsup.format.zfile_writer import ZFileWriter
from tests.format.disk_model import SECTOR, config_file, layer_bytes, layer_of, sector

DISK_SECTORS = 96

# (is a discard, first sector, sectors, value)
operations = st.lists(
    st.tuples(
        st.booleans(),
        st.integers(0, DISK_SECTORS - 1),
        st.integers(1, 24),
        st.integers(0, 60000),
    ),
    max_size=30,
)
extents = st.dictionaries(
    st.integers(0, DISK_SECTORS - 1), st.one_of(st.none(), st.integers(0, 60000)), max_size=40
)


def model_disk(model: dict[int, int]) -> bytes:
    return b"".join(sector(model.get(position, 0)) for position in range(DISK_SECTORS))


def apply(
    writer: UpperWriter, model: dict[int, int], operation: tuple[bool, int, int, int]
) -> None:
    is_discard, begin, length, value = operation
    end = min(begin + length, DISK_SECTORS)
    if is_discard:
        writer.discard(begin, end - begin)
    else:
        writer.write(begin, b"".join(sector(value + i) for i in range(end - begin)))
    for position in range(begin, end):
        model[position] = 0 if is_discard else value + position - begin


@settings(max_examples=60, deadline=None)
@given(operations, operations)
def test_writable_layer_equals_the_model_also_after_reopening(
    first: list[tuple[bool, int, int, int]], second: list[tuple[bool, int, int, int]]
) -> None:
    model: dict[int, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        pair = (Path(folder, "data"), Path(folder, "index"))
        create_upper(str(pair[0]), str(pair[1]), DISK_SECTORS * SECTOR)
        for batch in (first, second):
            writer = UpperWriter(str(pair[0]), str(pair[1]))
            for operation in batch:
                apply(writer, model, operation)
            writer.close()
            with Image.open(config_file(Path(folder), [], pair)) as image:
                assert image.read(0, image.size_bytes) == model_disk(model)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(extents, min_size=1, max_size=6),
    st.sampled_from([None, Algorithm.LZ4, Algorithm.ZSTD]),
)
def test_stack_equals_the_model(
    layers: list[dict[int, int | None]], algorithm: Algorithm | None
) -> None:
    model: dict[int, int] = {}
    opened = []
    for layer in layers:
        content: dict[int, bytes | int] = {
            at: 1 if value is None else sector(value) for at, value in layer.items()
        }
        opened.append(layer_of(layer_bytes(content, DISK_SECTORS, algorithm)))
        model |= {at: value or 0 for at, value in layer.items()}
    stack = Stack([(o.layer, o.layer.segments, o.layer.header.virtual_size_bytes) for o in opened])
    assert stack.read(0, DISK_SECTORS * SECTOR) == model_disk(model)
    assert all(data == model_disk(model)[at : at + len(data)] for at, data in stack.chunks())


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.integers(0, DISK_SECTORS - 1), st.integers(0, 3), max_size=60),
    st.dictionaries(st.integers(0, DISK_SECTORS - 1), st.integers(0, 3), max_size=60),
)
def test_difference_over_its_base_is_the_disk_and_keeps_only_what_differs(
    below: dict[int, int], above: dict[int, int]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        layers = []
        base: Stack | None = None
        for model in (below, above):
            path = Path(folder, "disk")
            path.write_bytes(model_disk(model))
            disk, file = RawDisk(str(path)), io.BytesIO()
            writer = LayerWriter(file, disk.size_bytes)
            disk.write_difference(writer, base)
            disk.close()
            writer.finish()
            layers.append(layer_of(file.getvalue()).layer)
            base = Stack([(o, o.segments, o.header.virtual_size_bytes) for o in layers])
            assert base.read(0, disk.size_bytes) == model_disk(model)
    kept = {at for s in layers[1].segments for at in range(s.offset, s.end)}
    assert kept == {at for at in range(DISK_SECTORS) if below.get(at, 0) != above.get(at, 0)}


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 300_000),
    st.sampled_from(list(Algorithm)),
    st.sampled_from([4096, 8192, 16384, 32768, 65536]),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_zfile_reads_back(
    length: int,
    algorithm: Algorithm,
    block_bytes: int,
    is_verified: bool,
    overwrites_header: bool,
    seed: int,
) -> None:
    source = random.Random(seed)
    data = b"".join(
        source.randbytes(700) if source.random() < 0.5 else bytes(900) for _ in range(length // 700)
    )
    file = io.BytesIO()
    writer = ZFileWriter(
        file,
        algorithm,
        block_bytes,
        is_verified=is_verified,
        overwrites_header=overwrites_header,
    )
    for begin in range(0, len(data), 10_000):
        writer.write(data[begin : begin + 10_000])
    writer.finish()
    zfile = ZFile(BytesBlob(file.getvalue()))
    assert zfile.size == len(data)
    assert zfile.read_at(0, len(data)) == data
    for _ in range(20):
        begin = source.randrange(len(data) + 1)
        end = source.randrange(begin, len(data) + 1)
        assert zfile.read_at(begin, end - begin) == data[begin:end]


def test_long_extents_are_split_at_the_segment_limit() -> None:
    length = 2 * MAX_SEGMENT_SECTORS + 5
    raw = layer_bytes({0: sector(7) * length, length: length}, 3 * length)
    segments = layer_of(raw).layer.segments
    assert [s.length for s in segments] == [MAX_SEGMENT_SECTORS, MAX_SEGMENT_SECTORS, 5] * 2
    assert [s.is_zeroed for s in segments] == [False] * 3 + [True] * 3


def test_second_writer_is_refused(tmp_path: Path) -> None:
    pair = (str(tmp_path / "d"), str(tmp_path / "i"))
    create_upper(*pair, 4096)
    writer = UpperWriter(*pair)
    with pytest.raises(AlreadyServed):
        UpperWriter(*pair)
    writer.close()
    UpperWriter(*pair).close()


def test_new_pair_has_one_uuid_and_does_not_replace(tmp_path: Path) -> None:
    pair = (str(tmp_path / "d"), str(tmp_path / "i"))
    uuid = create_upper(*pair, 1 << 36)
    upper = open_upper(*pair)
    assert (upper.header.uuid, upper.header.virtual_size_bytes) == (uuid, 1 << 36)
    assert uuid != "00000000-0000-0000-0000-000000000000"
    upper.close()
    with pytest.raises(ConfigError, match="exists already"):
        create_upper(*pair, 4096)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d", "i"]


def test_stack_of_255_layers() -> None:
    opened = [layer_of(layer_bytes({i % 128: sector(i + 1)}, 256)).layer for i in range(255)]
    stack = Stack([(o, o.segments, o.header.virtual_size_bytes) for o in opened])
    for at in range(128):
        top = max(i for i in range(255) if i % 128 == at)
        assert stack.read(at * SECTOR, SECTOR) == sector(top + 1)


def test_stack_takes_the_size_of_the_topmost_layer_that_has_one() -> None:
    sizes = [64, 128, 0]
    opened = [layer_of(layer_bytes({}, size)).layer for size in sizes]
    stack = Stack([(o, o.segments, o.header.virtual_size_bytes) for o in opened])
    assert stack.size_bytes == 128 * SECTOR
