"""Indexes of gzip files: as the reference makes them, and of what it can not index."""

from __future__ import annotations

import gzip
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from obdsup.errors import ConfigError, FormatError
from obdsup.format.blob import BytesBlob, FileBlob
from obdsup.format.gzip_index import GzipBlob, GzipIndex
from obdsup.image.gzip_index import write_gzip_index

KIB = 1024


def opened(packed: Path, index: Path) -> GzipBlob:
    blob = FileBlob(str(packed))
    return GzipBlob(blob, GzipIndex(FileBlob(str(index)), blob.size))


def content(length: int, seed: int) -> bytes:
    """Text and noise, so that blocks are short and a point is often inside of a byte."""
    pick = random.Random(seed)
    words = [pick.randbytes(pick.randrange(2, 20)) for _ in range(500)]
    made = b"".join(pick.choice(words) for _ in range(length // 8))
    return made[:length]


def test_index_is_the_reference_s_byte_for_byte(vectors: Path, tmp_path: Path) -> None:
    index = tmp_path / "gzip.meta"
    done = write_gzip_index(str(vectors / "turbo" / "layer0.tar.gz"), str(index))
    assert index.read_bytes() == (vectors / "turbo" / "gz-0.gzip.meta").read_bytes()
    assert (done.point_cnt, done.member_cnt) == (4, 1)


def test_all_members_are_indexed_and_read_at_random(tmp_path: Path) -> None:
    packed, index = tmp_path / "many.gz", tmp_path / "many.idx"
    parts = [content(n * KIB, n) for n in (1, 2500, 0, 7, 1300, 1)]
    packed.write_bytes(b"".join(gzip.compress(part) for part in parts) + bytes(100))
    whole = b"".join(parts)
    done = write_gzip_index(str(packed), str(index))
    assert (done.member_cnt, done.plain_bytes) == (len(parts), len(whole))
    assert done.point_cnt >= 7  # of the members that hold something, and of the spans of two
    blob = opened(packed, index)
    assert blob.read_at(0, len(whole)) == whole
    pick = random.Random(3)
    for _ in range(25):
        length = pick.randrange(1, 50 * KIB)
        at = pick.randrange(len(whole) - length)
        assert blob.read_at(at, length) == whole[at : at + length]
    blob.close()


def test_damage_is_named(tmp_path: Path) -> None:
    packed, index = tmp_path / "x.gz", tmp_path / "x.idx"
    good = gzip.compress(content(300 * KIB, 1))
    packed.write_bytes(good)
    write_gzip_index(str(packed), str(index))
    for at in range(0, 333, 7):
        raw = bytearray(index.read_bytes())
        raw[at] ^= 4
        with pytest.raises(FormatError, match="gzip index"):
            GzipIndex(BytesBlob(bytes(raw)), len(good))
    with pytest.raises(FormatError, match="size of the gzip file"):
        GzipIndex(FileBlob(str(index)), len(good) + 1)
    flipped = bytearray(good)
    flipped[-7] ^= 1  # its checksum: only who reads it to the end can tell
    packed.write_bytes(bytes(flipped))
    blob = opened(packed, index)
    with pytest.raises(FormatError, match="gzip trailer"):
        blob.read_at(0, blob.size)
    blob.close()
    (tmp_path / "cut.gz").write_bytes(good[:-20])
    for name, what in (("cut.gz", "gzip data"), ("x.gz", "gzip crc")):
        with pytest.raises(FormatError, match=what):
            write_gzip_index(str(tmp_path / name), str(tmp_path / "new.idx"))
    assert not (tmp_path / "new.idx").exists()


def test_an_input_is_never_the_output(tmp_path: Path) -> None:
    packed = tmp_path / "x.gz"
    packed.write_bytes(gzip.compress(b"x"))
    with pytest.raises(ConfigError, match="input of this command"):
        write_gzip_index(str(packed), str(packed), may_replace=True)


def test_command_tells_what_it_did(tmp_path: Path) -> None:
    packed, index = tmp_path / "x.gz", tmp_path / "x.idx"
    packed.write_bytes(gzip.compress(b"hello" * 1000))
    command = [sys.executable, "-m", "obdsup.cli", "image", "gzip-index", str(packed)]
    done = subprocess.run([*command, "-o", str(index), "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["content_bytes"], facts["members"], facts["points"]) == (5000, 1, 1)
    again = subprocess.run([*command, "-o", str(index)], capture_output=True, text=True)
    assert again.returncode == ConfigError.exit_code
    assert "--force" in again.stderr
