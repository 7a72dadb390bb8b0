"""Every reference image, read by the C core: the recorded digests, at random offsets too."""

from __future__ import annotations

import hashlib
import json
import random
import struct
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from obdsup.format.image import Image

REPO = Path(__file__).resolve().parents[2]
NATIVE = REPO / "native"
CHUNK_BYTES = 64 * 1024
SECTOR_BYTES = 512
RANDOM_READS = 2000


@pytest.fixture(scope="session")
def prog_image() -> Path:
    """The program that reads an image through obd_image.h, built when needed."""
    out = "build/pytest"
    done = subprocess.run(
        ["make", "-s", "-C", str(NATIVE), f"OUT={out}", f"{out}/prog_image"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return NATIVE / out / "prog_image"


def image_names() -> list[str]:
    """Named here and checked against the manifest, so that collection needs no vectors."""
    variants = ("lz4-32k", "lz4", "lz4.tar", "raw", "zstd-16k", "zstd")
    names = [f"stack/config.{variant}.{n}.json" for variant in variants for n in (1, 2, 3)]
    names += ["stack/config.merged.1.json", "rw/config.d2.json", "rw/config.e1.commit.json"]
    names += [f"rw/config.d1.{kind}.obd.json" for kind in ("commit", "commit.lz4", "sealed")]
    names += [f"turbo/config.{kind}.{n}.json" for kind in ("ext4", "erofs") for n in (1, 2, 3)]
    names += ["turbo/config.gz.1.json"]
    return [*names, "mini/config.m.json", "mini/config.m2.upper.json"]


def image_arguments(vectors: Path, name: str) -> list[str]:
    config = json.loads((vectors / name).read_text().replace("@VECTORS@", str(vectors)))
    arguments = []
    if config.get("upper"):
        arguments = ["-u", config["upper"]["data"], config["upper"]["index"]]
    keys = ("file", "targetFile", "gzipIndex")
    lowers = ("\n".join(lower.get(key, "") for key in keys) for lower in config["lowers"])
    return arguments + [lower.rstrip("\n") for lower in lowers]


def run(prog: Path, mode: str, arguments: list[str], stdin: str = "") -> bytes:
    done = subprocess.run(
        [str(prog), mode, *arguments], input=stdin.encode(), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def chunks(scanned: bytes) -> Iterator[tuple[int, bytes]]:
    """The chunks of a scan that hold something, by offset."""
    size = struct.unpack_from("<Q", scanned)[0]
    at = 8
    while at < len(scanned):
        offset = struct.unpack_from("<Q", scanned, at)[0]
        length = min(CHUNK_BYTES, size - offset)
        yield offset, scanned[at + 8 : at + 8 + length]
        at += 8 + length


@cache
def disk_digest(scanned: bytes) -> str:
    """sha256 of the whole disk; cached, for many images hold the same disk."""
    size = struct.unpack_from("<Q", scanned)[0]
    digest = hashlib.sha256()
    zeros = bytes(1 << 20)
    done = 0

    def fill(until: int) -> None:
        left = until - done
        while left > 0:
            digest.update(zeros[: min(left, len(zeros))])
            left -= len(zeros)

    for offset, chunk in chunks(scanned):
        fill(offset)
        digest.update(chunk)
        done = offset + len(chunk)
    fill(size)
    return digest.hexdigest()


@pytest.mark.native
@pytest.mark.parametrize("name", image_names())
def test_image_reads_to_the_recorded_digest(vectors: Path, prog_image: Path, name: str) -> None:
    expected = json.loads((vectors / "manifest.json").read_text())["images"][name]
    scanned = run(prog_image, "scan", image_arguments(vectors, name))
    assert struct.unpack_from("<Q", scanned)[0] == expected["virtual_size"]
    assert disk_digest(scanned) == expected["sha256"]


def test_no_image_of_the_manifest_is_left_out(vectors: Path) -> None:
    images = json.loads((vectors / "manifest.json").read_text())["images"]
    assert set(images) == set(image_names())


@pytest.mark.native
@pytest.mark.parametrize("name", ["rw/d1", "mini/m0"])
def test_upper_alone_reads_to_the_recorded_digest(
    vectors: Path, prog_image: Path, name: str
) -> None:
    row = json.loads((vectors / "manifest.json").read_text())["uppers"][name]
    arguments = ["-u", str(vectors / row["data"]), str(vectors / row["index"])]
    assert disk_digest(run(prog_image, "scan", arguments)) == row["sha256"]


@pytest.mark.native
def test_every_zfile_decompresses_to_the_recorded_digest(vectors: Path, prog_image: Path) -> None:
    rows = json.loads((vectors / "manifest.json").read_text())["zfiles"]
    assert len(rows) >= 40
    for name, expected in rows.items():
        plain = run(prog_image, "zfile", [str(vectors / name)])
        assert hashlib.sha256(plain).hexdigest() == expected, name


def random_ranges(scanned: bytes, seed: int) -> list[tuple[int, int]]:
    """Ranges in sectors; most of them touch something that is mapped."""
    rng = random.Random(seed)
    sectors = struct.unpack_from("<Q", scanned)[0] // SECTOR_BYTES
    mapped = [offset // SECTOR_BYTES for offset, _ in chunks(scanned)]
    ranges = []
    for i in range(RANDOM_READS):
        cnt = rng.choice((1, 1, 7, 8, 8, 9, 20, 64))
        base = rng.randrange(sectors) if i % 10 == 0 else rng.choice(mapped) + rng.randrange(128)
        ranges.append((min(base, sectors - cnt), cnt))
    return ranges


@pytest.mark.native
@pytest.mark.parametrize("name", image_names())
def test_random_reads_agree_with_the_reader_in_python(
    vectors: Path, prog_image: Path, name: str, tmp_path: Path
) -> None:
    """Two implementations that share no line, and small unaligned reads: the same bytes."""
    config = tmp_path / "config.v1.json"
    config.write_text((vectors / name).read_text().replace("@VECTORS@", str(vectors)))
    arguments = image_arguments(vectors, name)
    ranges = random_ranges(run(prog_image, "scan", arguments), seed=7)
    got = run(prog_image, "read", arguments, "".join(f"{lba} {cnt}\n" for lba, cnt in ranges))
    at = 0
    with Image.open(str(config)) as image:
        for lba, cnt in ranges:
            length = cnt * SECTOR_BYTES
            assert got[at : at + length] == image.read(lba * SECTOR_BYTES, length), (lba, cnt)
            at += length
    assert at == len(got)
