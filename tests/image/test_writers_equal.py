"""The writers in C and in Python make the same bytes of the same random layers and contents."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from obdsup.format.blob import FileBlob
from obdsup.format.image import Image
from obdsup.format.lsmt_header import LsmtFlags, LsmtHeader
from obdsup.format.sealed_writer import write_sealed
from obdsup.format.upper_writer import UpperWriter, create_upper
from obdsup.format.zfile import ZFile
from obdsup.format.zfile_header import Algorithm
from obdsup.format.zfile_writer import ZFileWriter
from obdsup.image.commit import LayerOptions, Sources, write_layer
from obdsup.image.merge import sources_of
from obdsup.image.zfile import ZFileOptions, compress
from tests.format.disk_model import SECTOR, config_file, sector

DISK_SECTORS = 1 << 17
UUID = "01234567-89AB-CDEF-0123-456789ABCDEF"

# (is a discard, first sector, sectors, value); some longer than an entry of the index may be
operations = st.lists(
    st.tuples(
        st.booleans(),
        st.integers(0, 200) | st.integers(0, DISK_SECTORS - 1),
        st.integers(1, 24) | st.sampled_from((8191, 8192, 16382, 16383, 17000)),
        st.integers(0, 60000),
    ),
    max_size=12,
)


def make_pair(
    folder: Path, name: str, steps: list[tuple[bool, int, int, int]]
) -> tuple[Path, Path]:
    data, index = folder / f"{name}.data", folder / f"{name}.index"
    create_upper(str(data), str(index), DISK_SECTORS * SECTOR, uuid=UUID)
    writer = UpperWriter(str(data), str(index))
    for is_discard, first, wanted, value in steps:
        length = min(wanted, DISK_SECTORS - first)
        if is_discard:
            writer.discard(first, length)
        else:
            writer.write(first, sector(value) * length)
    writer.close()
    return data, index


def by_oracle(config: str, layer_cnt: int) -> bytes:
    """The merge of all layers, tags counted from the top."""
    file = io.BytesIO()
    with Image.open(config) as image:
        write_sealed(
            file,
            image.stack.map,
            image.stack.read_segment,
            LsmtHeader(LsmtFlags.DATA, image.size_bytes, uuid=UUID, user_tag="tag"),
            lambda tag: layer_cnt - 1 - tag,
        )
    return file.getvalue()


@settings(max_examples=25, deadline=None)
@given(operations, operations, st.sampled_from((None, Algorithm.LZ4, Algorithm.ZSTD)))
def test_layers(
    below: list[tuple[bool, int, int, int]],
    above: list[tuple[bool, int, int, int]],
    algorithm: Algorithm | None,
) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        folder = Path(name)
        lower = folder / "lower"
        zfile = ZFileOptions(algorithm, threads=2) if algorithm else None
        pair = make_pair(folder, "below", below)
        done = write_layer(
            Sources(upper=(str(pair[0]), str(pair[1]))), str(lower), LayerOptions(zfile)
        )
        assert done.virtual_size_bytes == DISK_SECTORS * SECTOR
        config = config_file(folder, [lower], make_pair(folder, "above", above))
        options = LayerOptions(zfile, uuid=UUID, user_tag="tag", keeps_tags=True)
        merged = folder / "merged"
        write_layer(sources_of(config, with_upper=True), str(merged), options)
        expected = by_oracle(config, 2)
        if algorithm is None:
            assert merged.read_bytes() == expected
            return
        inner = ZFile(FileBlob(str(merged)))
        assert inner.read_at(0, inner.size) == expected
        inner.close()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.binary(max_size=600)
        | st.builds(lambda n, b: bytes([b]) * n, st.integers(0, 70_000), st.integers(0, 255)),
        max_size=8,
    ).map(b"".join),
    st.sampled_from(list(Algorithm)),
    st.sampled_from((4096, 8192, 16384, 32768, 65536)),
    st.booleans(),
    st.booleans(),
)
def test_zfiles(
    content: bytes, algorithm: Algorithm, block_bytes: int, has_crc: bool, overwrites: bool
) -> None:
    """The codec's own output may differ between its releases; all around it may not."""
    expected = io.BytesIO()
    writer = ZFileWriter(
        expected, algorithm, block_bytes, is_verified=has_crc, overwrites_header=overwrites
    )
    writer.write(content)
    writer.finish()
    options = ZFileOptions(algorithm, block_bytes, has_crc, overwrites, threads=2)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        source, out, oracle = (Path(name) / which for which in ("source", "out", "oracle"))
        source.write_bytes(content)
        oracle.write_bytes(expected.getvalue())
        with open(source, "rb") as opened:
            made = compress(opened.fileno(), "source", str(out), options)
        ours, theirs = ZFile(FileBlob(str(out))), ZFile(FileBlob(str(oracle)))
        assert ours.read_at(0, ours.size) == content
        assert theirs.read_at(0, theirs.size) == content
        assert len(ours.table) == len(theirs.table) == made.block_cnt
        same = (ours.header.flags, ours.header.block_bytes, ours.header.is_verified)
        assert same == (theirs.header.flags, theirs.header.block_bytes, theirs.header.is_verified)
        ours.close()
        theirs.close()
