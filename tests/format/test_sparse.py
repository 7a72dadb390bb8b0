"""The sparse writable layer: the reference's file, discards that stay, parts of blocks, damage."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from obdsup.errors import AlreadyServed, ConfigError, FormatError
from obdsup.format import zeroes
from obdsup.format.image import Image
from obdsup.format.layer_writer import LayerWriter
from obdsup.format.sink import atomic_output
from obdsup.format.sparse_upper import SparseUpper
from obdsup.format.sparse_writer import SparseWriter
from obdsup.format.upper import open_upper
from obdsup.format.upper_writer import UpperWriter, create_upper

SECTOR = 512
SECTORS = 93  # the last block is not whole
SIZE = SECTORS * SECTOR


@pytest.fixture
def pair(tmp_path: Path) -> tuple[str, str]:
    names = str(tmp_path / "data"), str(tmp_path / "index")
    create_upper(*names, SIZE, is_sparse=True)
    return names


def lower(tmp_path: Path) -> Path:
    path = tmp_path / "lower.obd"
    with atomic_output(str(path)) as file:
        writer = LayerWriter(file, SIZE)
        writer.add_data(0, b"\x7e" * SIZE)
        writer.finish()
    return path


def stacked(tmp_path: Path, pair: tuple[str, str], *lowers: Path) -> Image:
    config = {
        "lowers": [{"file": str(path)} for path in lowers],
        "upper": {"data": pair[0], "index": pair[1]},
    }
    (tmp_path / "config.v1.json").write_text(json.dumps(config))
    return Image.open(str(tmp_path / "config.v1.json"))


def test_reference_file_is_read(vectors: Path, tmp_path: Path) -> None:
    subprocess.run(["tar", "-xf", vectors / "rw/e1.sparse.tar.zst", "-C", tmp_path], check=True)
    (data,) = tmp_path.rglob("e1.data")
    index = tmp_path / "e1.idx"
    index.write_bytes(b"")
    manifest = json.loads((vectors / "manifest.json").read_text())
    with stacked(tmp_path, (str(data), str(index))) as image:
        assert image.sha256() == manifest["uppers"]["rw/d1"]["sha256"]


def test_a_new_layer_is_what_the_reference_makes(pair: tuple[str, str]) -> None:
    data, index = (Path(name) for name in pair)
    assert index.stat().st_size == 0
    assert data.stat().st_size == SIZE + 4096
    assert data.read_bytes()[28:32] == bytes([0b10011, 0, 0, 0])


operations = st.lists(
    st.tuples(
        st.booleans(), st.integers(0, SECTORS - 1), st.integers(1, SECTORS), st.integers(1, 255)
    ),
    max_size=12,
)


@settings(max_examples=25, deadline=None)
@given(operations, st.booleans())
def test_writes_and_discards_survive_a_reopen(
    tmp_path_factory: pytest.TempPathFactory,
    wanted: list[tuple[bool, int, int, int]],
    has_lower: bool,
) -> None:
    tmp_path = tmp_path_factory.mktemp("sparse")
    pair = str(tmp_path / "data"), str(tmp_path / "index")
    create_upper(*pair, SIZE, is_sparse=True)
    lowers = [lower(tmp_path)] if has_lower else []
    model = bytearray((b"\x7e" if has_lower else b"\0") * SIZE)
    below = bytes(model)
    writer = SparseWriter(*pair, (lambda at, n: below[at : at + n]) if has_lower else None)
    for is_discard, begin, length, value in wanted:
        length = min(length, SECTORS - begin)
        if is_discard:
            writer.discard(begin, length)
            value = 0
        else:
            writer.write(begin, bytes([value]) * (length * SECTOR))
        model[begin * SECTOR : (begin + length) * SECTOR] = bytes([value]) * (length * SECTOR)
    writer.close()
    with stacked(tmp_path, pair, *lowers) as image:
        assert image.read(0, SIZE) == bytes(model)


def test_discarded_block_stays_zeros_over_a_lower(tmp_path: Path, pair: tuple[str, str]) -> None:
    writer = SparseWriter(*pair, lambda at, n: b"\x7e" * n)
    writer.discard(8, 16)
    writer.close()
    with stacked(tmp_path, pair, lower(tmp_path)) as image:
        assert image.read(8 * SECTOR, 16 * SECTOR) == bytes(16 * SECTOR)
        assert image.read(24 * SECTOR, SECTOR) == b"\x7e" * SECTOR


def test_torn_record_is_left_out_and_damage_refused(pair: tuple[str, str]) -> None:
    writer = SparseWriter(*pair)
    writer.discard(0, 8)
    writer.discard(16, 8)
    writer.close()
    record = Path(pair[0] + zeroes.SUFFIX)
    whole = record.read_bytes()
    for length in (*range(0, zeroes.HEADER_BYTES, 9), len(whole) - 16, len(whole) - 1):
        record.write_bytes(whole[:length])
        upper = open_upper(*pair)
        assert isinstance(upper, SparseUpper)
        assert len(upper.zeroed_ranges) == max(0, (length - zeroes.HEADER_BYTES) // 16)
        upper.close()
    for at in range(zeroes.HEADER_BYTES, zeroes.HEADER_BYTES + 16):
        record.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(FormatError, match="zeroes"):
            open_upper(*pair)
    record.write_bytes(whole[:9] + b"\x01" + whole[10:])
    with pytest.raises(FormatError, match="version"):
        open_upper(*pair)


def test_wrong_files_are_refused(pair: tuple[str, str]) -> None:
    with pytest.raises(ConfigError, match="sparse"):
        UpperWriter(*pair)
    writer = SparseWriter(*pair)
    with pytest.raises(AlreadyServed):
        SparseWriter(*pair)
    writer.close()
    Path(pair[1]).write_bytes(bytes(4096 + 16))
    with pytest.raises(FormatError, match="index records"):
        open_upper(*pair)


def test_replacing_takes_the_old_record_away(pair: tuple[str, str]) -> None:
    writer = SparseWriter(*pair)
    writer.discard(0, 8)
    writer.close()
    create_upper(*pair, SIZE, is_sparse=True, may_replace=True)
    assert not os.path.exists(pair[0] + zeroes.SUFFIX)
    assert hashlib.sha256(Path(pair[1]).read_bytes()).hexdigest().startswith("e3b0c442")
