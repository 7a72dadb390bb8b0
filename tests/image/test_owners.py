"""Damage and differences are told by the names of files, where the disk is an ext4."""

from __future__ import annotations

from pathlib import Path

from obdsup.format import config
from obdsup.format.config import ImageConfig
from obdsup.format.image import Image
from obdsup.image.diff import compare_disks
from obdsup.image.owners import files_in
from obdsup.image.verify import verify_image
from tests.format.disk_model import GOLDEN, substituted


def image_of(vectors: Path, name: str, folder: Path) -> ImageConfig:
    return config.load(substituted(vectors / "stack" / name, folder, "@VECTORS@", vectors))


def test_difference_names_new_files(vectors: Path, tmp_path: Path) -> None:
    old = image_of(vectors, "config.lz4.2.json", tmp_path)
    new = image_of(vectors, "config.lz4.3.json", tmp_path)
    found = compare_disks(old, new)
    before, after = files_in(old, found.ranges), files_in(new, found.ranges)
    assert before is not None
    assert after is not None
    assert "/opt/l2.bin" not in before
    assert after["/opt/l2.bin"] == after["/opt/hl"] > 300_000  # one inode
    assert sum(before.values()) < found.right_bytes
    assert files_in(new, []) == {}


def test_damaged_block_names_its_file(vectors: Path, tmp_path: Path) -> None:
    good = vectors / "stack" / "L2.lz4.obd"
    raw = bytearray(good.read_bytes())
    new = image_of(vectors, "config.lz4.3.json", tmp_path)
    with Image(new) as opened:
        zfile = opened.lowers[2].zfile
        assert zfile is not None
        starts = zfile.table.starts
    named: set[str] = set()
    for block in range(len(starts) // 3, len(starts) - 2, len(starts) // 8):
        raw[:] = good.read_bytes()
        raw[starts[block] + 2] ^= 0xFF
        bad = tmp_path / "bad.obd"
        bad.write_bytes(raw)
        image = ImageConfig(new.path, (*new.lowers[:2], config.Lower(str(bad))), None)
        found = verify_image(image)
        assert [damage.layer for damage in found.damages] == [2]
        (ranges,) = [damage.disk_ranges for damage in found.damages]
        named.update(files_in(image, ranges) or {})
    assert named


def test_disk_without_a_file_system_has_no_names() -> None:
    layer = str(GOLDEN / "m0.lz4.obd")
    assert files_in(ImageConfig(layer, (config.Lower(layer),), None), [(0, 4096)]) is None
