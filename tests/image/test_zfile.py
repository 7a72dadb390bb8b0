"""ZFiles made, extracted and checked in C: the reference's bytes, whatever the threads."""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path

import pytest

from obdsup.errors import ConfigError, FormatError
from obdsup.format.blob import FileBlob
from obdsup.format.zfile import ZFile
from obdsup.format.zfile_header import Algorithm, ZFileFlags
from obdsup.image.zfile import (
    Compressed,
    ZFileOptions,
    check_zfile,
    compress,
    extract,
    reference_warning,
)

LZ4, ZSTD = Algorithm.LZ4, Algorithm.ZSTD


def compress_file(source: Path, target: Path, options: ZFileOptions, **how: bool) -> Compressed:
    descriptor = os.open(source, os.O_RDONLY)
    try:
        return compress(descriptor, str(source), str(target), options, **how)
    finally:
        os.close(descriptor)


def mixed_bytes(length: int, seed: int) -> bytes:
    source = random.Random(seed)
    data = bytearray()
    while len(data) < length:
        data += source.choice(
            (source.randbytes(3000), bytes(source.randrange(5000)), b"abc" * source.randrange(2000))
        )
    return bytes(data[:length])


@pytest.mark.parametrize("algorithm", [LZ4, ZSTD])
@pytest.mark.parametrize("kib", [4, 8, 16, 32, 64])
def test_same_bytes_as_the_reference(
    vectors: Path, tmp_path: Path, algorithm: Algorithm, kib: int
) -> None:
    for name in ("tiny", "exact", "mix", "random"):
        source = vectors / f"zf-{name}.bin"
        expected = vectors / "zfile" / f"{name}.{algorithm.name.lower()}.{kib}k.zfile"
        out, plain = tmp_path / "out", tmp_path / "plain"
        compress_file(source, out, ZFileOptions(algorithm, kib * 1024), may_replace=True)
        assert out.read_bytes() == expected.read_bytes(), name
        assert extract(str(expected), str(plain), may_replace=True) == source.stat().st_size
        assert plain.read_bytes() == source.read_bytes()
        assert check_zfile(str(expected)).damage_cnt == 0


def test_in_a_tar_the_same_bytes_as_the_reference(vectors: Path, tmp_path: Path) -> None:
    out, plain = tmp_path / "out", tmp_path / "plain"
    compress_file(vectors / "zf-mix.bin", out, ZFileOptions(), in_tar=True)
    assert out.read_bytes() == (vectors / "zfile" / "mix.lz4.4k.tar.zfile").read_bytes()
    extract(str(out), str(plain))
    assert plain.read_bytes() == (vectors / "zf-mix.bin").read_bytes()


@pytest.mark.parametrize("length", [0, 1, 4095, 4096, 262_143, 262_144, 262_145, 3_000_001])
@pytest.mark.parametrize("algorithm", [LZ4, ZSTD])
def test_threads_and_pipes_change_nothing(
    tmp_path: Path, algorithm: Algorithm, length: int
) -> None:
    source = tmp_path / "source"
    source.write_bytes(mixed_bytes(length, length))
    made = []
    for threads in (1, 2, 7):
        out = tmp_path / f"out.{threads}"
        compress_file(source, out, ZFileOptions(algorithm, 8192, threads=threads))
        made.append(out.read_bytes())
    reading, writing = os.pipe()
    feeder = threading.Thread(target=feed, args=(writing, source.read_bytes()))
    feeder.start()
    piped = compress(reading, "pipe", str(tmp_path / "piped"), ZFileOptions(algorithm, 8192))
    feeder.join()
    os.close(reading)
    made.append((tmp_path / "piped").read_bytes())
    assert len(set(made)) == 1
    assert piped.content_bytes == length
    assert piped.file_bytes == len(made[0])
    extract(str(tmp_path / "piped"), str(tmp_path / "plain"), threads=3)
    assert (tmp_path / "plain").read_bytes() == source.read_bytes()


def feed(descriptor: int, data: bytes) -> None:
    with open(descriptor, "wb", buffering=0) as pipe:
        for begin in range(0, len(data), 60_001):
            pipe.write(data[begin : begin + 60_001])


@pytest.mark.parametrize("has_crc", [True, False])
@pytest.mark.parametrize("overwrites_header", [True, False])
def test_forms_of_header_and_crc(tmp_path: Path, has_crc: bool, overwrites_header: bool) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.write_bytes(mixed_bytes(100_000, 5))
    compress_file(source, out, ZFileOptions(has_crc=has_crc, overwrites_header=overwrites_header))
    zfile = ZFile(FileBlob(str(out)))
    assert zfile.header.is_verified == has_crc
    assert bool(zfile.header.flags & ZFileFlags.OVERWRITTEN) == overwrites_header
    assert zfile.read_at(0, zfile.size) == source.read_bytes()
    zfile.close()


def test_each_damaged_block_is_named(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.write_bytes(mixed_bytes(600_000, 9))
    compress_file(source, out, ZFileOptions())
    blob = ZFile(FileBlob(str(out)))
    starts = list(blob.table.starts)
    blob.close()
    raw = bytearray(out.read_bytes())
    hit = [0, 63, 64, 65, len(starts) - 2]
    for block in hit:
        raw[starts[block] + 1] ^= 0x40
    out.write_bytes(raw)
    found = check_zfile(str(out), threads=3)
    assert [offset // 4096 for offset, _ in found.damages] == hit
    assert found.damage_cnt == len(hit)
    assert [error.fields["offset"] for _, error in found.damages] == [starts[i] for i in hit]
    with pytest.raises(FormatError, match="zfile block crc"):
        extract(str(out), str(tmp_path / "plain"))
    assert not (tmp_path / "plain").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_blocks_that_overlaybd_can_not_read_are_told(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(random.Random(1).randbytes(200_000))
    made = compress_file(source, tmp_path / "out", ZFileOptions(block_bytes=65536))
    assert made.longest_block_bytes > 65536
    assert str(made.longest_block_bytes) in reference_warning(made.longest_block_bytes)
    made = compress_file(source, tmp_path / "out2", ZFileOptions(block_bytes=32768))
    assert not reference_warning(made.longest_block_bytes)


def test_refusals_leave_everything_as_it_was(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.write_bytes(b"content")
    out.write_bytes(b"precious")
    with pytest.raises(ConfigError, match="exists already"):
        compress_file(source, out, ZFileOptions())
    with pytest.raises(ConfigError, match="threads"):
        ZFileOptions(threads=65)
    with pytest.raises(FormatError, match="zfile header"):
        extract(str(source), str(tmp_path / "new"))
    assert out.read_bytes() == b"precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]


def test_a_failed_read_of_the_source_is_told(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(Exception, match="Is a directory"):
        compress(descriptor, "folder", str(tmp_path / "out"), ZFileOptions())
    os.close(descriptor)
    assert list(tmp_path.iterdir()) == []
