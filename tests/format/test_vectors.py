"""Every file of the reference reads to its recorded digest."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from obdsup.format.blob import FileBlob
from obdsup.format.image import Image
from obdsup.format.layer import open_content
from tests.format.disk_model import config_file, substituted

IMAGES = [
    *(
        f"stack/config.{kind}.{count}.json"
        for kind in ("raw", "lz4", "lz4-32k", "zstd", "zstd-16k", "lz4.tar")
        for count in (1, 2, 3)
    ),
    "stack/config.merged.1.json",
    "rw/config.d1.commit.obd.json",
    "rw/config.d1.commit.lz4.obd.json",
    "rw/config.d1.sealed.obd.json",
    "rw/config.e1.commit.json",
    "rw/config.d2.json",
    "mini/config.m.json",
    "mini/config.m2.upper.json",
    *(f"turbo/config.{kind}.{count}.json" for kind in ("ext4", "erofs") for count in (1, 2, 3)),
    "turbo/config.gz.1.json",
]


@pytest.fixture(scope="module")
def manifest(vectors: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((vectors / "manifest.json").read_text())
    return loaded


def test_the_list_of_images_is_that_of_the_manifest(manifest: dict[str, Any]) -> None:
    assert set(IMAGES) == set(manifest["images"])


@pytest.mark.parametrize("name", IMAGES)
def test_image_reads_to_its_digest_and_all_blocks_are_good(
    name: str, vectors: Path, manifest: dict[str, Any], tmp_path: Path
) -> None:
    expected = manifest["images"][name]
    with Image.open(substituted(vectors / name, tmp_path, "@VECTORS@", vectors)) as image:
        assert image.size_bytes == expected["virtual_size"]
        assert image.sha256() == expected["sha256"]
        assert list(image.problems()) == []


def test_zfiles_read_to_their_digests(vectors: Path, manifest: dict[str, Any]) -> None:
    assert len(manifest["zfiles"]) > 40
    for name, digest in manifest["zfiles"].items():
        content, base, zfile = open_content(FileBlob(str(vectors / name)))
        assert zfile is not None, name
        assert (base > 0) == (".tar." in name)
        assert hashlib.sha256(content.read_at(0, content.size)).hexdigest() == digest, name
        content.close()


@pytest.mark.parametrize("name", ["rw/d1", "mini/m0"])
def test_writable_layer_alone_reads_to_its_digest(
    name: str, vectors: Path, manifest: dict[str, Any], tmp_path: Path
) -> None:
    row = manifest["uppers"][name]
    pair = (vectors / row["data"], vectors / row["index"])
    with Image.open(config_file(tmp_path, [], pair)) as image:
        assert image.sha256() == row["sha256"]


def test_unsealed_layer_reads_as_its_committed_form(vectors: Path, tmp_path: Path) -> None:
    pair = (vectors / "stack/w1.data", vectors / "stack/w1.idx")
    lower = vectors / "stack/L0.raw.obd"
    committed = config_file(tmp_path, [lower, vectors / "stack/L1.raw.obd"], name="ro.json")
    with (
        Image.open(config_file(tmp_path, [lower], pair)) as writable,
        Image.open(committed) as sealed,
    ):
        ours = [(at, hashlib.sha256(data).digest()) for at, data in _pages(writable)]
        theirs = [(at, hashlib.sha256(data).digest()) for at, data in _pages(sealed)]
    assert ours == theirs


def _pages(image: Image) -> list[tuple[int, bytes]]:
    """The pages that are not zeros, however the segments are cut."""
    found = {}
    for segment in image.segments():
        for page in range(segment.offset // 8, (segment.end - 1) // 8 + 1):
            if page not in found:
                found[page] = image.read(page * 4096, 4096)
    return [(page, data) for page, data in sorted(found.items()) if any(data)]
