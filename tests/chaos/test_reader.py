"""The direct reader notices bytes that are not the image's, and errors."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from chaos.workloads.redis.reader import DirectReader
from tests.conftest import eventually

TIMEOUT_S = 10.0
FILE_BYTES = 300_000  # not a multiple of a block: reads at the end are short


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    path = tmp_path / "copy"
    path.write_bytes(random.Random(1).randbytes(FILE_BYTES))
    return path


@pytest.fixture
def direct(tmp_path: Path, copy: Path) -> Path:
    """A copy of the file on a file system that knows O_DIRECT."""
    path = tmp_path / "direct"
    path.write_bytes(copy.read_bytes())
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECT))
    except OSError:
        pytest.skip(f"{tmp_path} is on a file system without O_DIRECT")
    return path


def _read_until(reader: DirectReader, attribute: str, count: int) -> None:
    reader.start()
    try:
        eventually(lambda: len(getattr(reader, attribute)) >= count)
    finally:
        reader.stop()
        reader.join(TIMEOUT_S)


def test_same_file_is_found_the_same(direct: Path, copy: Path) -> None:
    reader = DirectReader(direct, copy, seed=1, pause_s=0.0)
    _read_until(reader, "operations", 100)
    assert (reader.errors, reader.wrong) == ([], [])


def test_one_wrong_byte_is_noticed(direct: Path, copy: Path) -> None:
    data = bytearray(copy.read_bytes())
    data[FILE_BYTES // 2] ^= 1
    copy.write_bytes(data)
    reader = DirectReader(direct, copy, seed=1, pause_s=0.0)
    _read_until(reader, "wrong", 1)
    assert "not what the image holds" in reader.wrong[0]


def test_short_file_is_noticed(direct: Path, copy: Path) -> None:
    os.truncate(direct, FILE_BYTES // 2)
    reader = DirectReader(direct, copy, seed=1, pause_s=0.0)
    _read_until(reader, "wrong", 1)


def test_file_that_can_not_be_opened_is_an_error(tmp_path: Path, copy: Path) -> None:
    reader = DirectReader(tmp_path / "absent", copy, seed=1, pause_s=0.0)
    _read_until(reader, "errors", 1)
    assert "absent" in reader.errors[0]
