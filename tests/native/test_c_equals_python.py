"""The engine's image (C, through the binding) gives the bytes of the reference in Python."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest

from obdsup.errors import NativeError
from obdsup.format.image import Image as Reference
from obdsup.worker.native import SECTOR_BYTES, Image

GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "mini"
READS = 1000  # per image; those near mapped data are what matters


def compare(config: Path, folder: Path, tmp_path: Path, seed: int) -> None:
    text = re.sub("@(VECTORS|GOLDEN)@", str(folder), config.read_text())
    body = json.loads(text)
    resolved = tmp_path / config.name
    resolved.write_text(text)
    upper = body.get("upper")
    pair = (upper["data"], upper["index"]) if upper else None
    keys = ("file", "targetFile", "gzipIndex")
    lowers = ["\n".join(lower.get(key, "") for key in keys) for lower in body.get("lowers", [])]
    native = Image(lowers, pair)
    try:
        with Reference.open(str(resolved)) as reference:
            sectors = native.size_bytes // SECTOR_BYTES
            assert native.is_writable == bool(upper)
            edges = [edge for s in reference.segments() for edge in (s.offset, s.offset + s.length)]
            pick = random.Random(seed)
            for _ in range(READS):
                count = pick.choice((1, 2, 7, 8, 9, 64, 257))
                near = pick.choice(edges) + pick.randint(-count, 8) if edges else 0
                lba = pick.choice((near, near, near, pick.randrange(sectors)))
                lba = min(max(lba, 0), sectors - count)
                expected = reference.read(lba * SECTOR_BYTES, count * SECTOR_BYTES)
                assert native.read(lba, count) == expected, f"{config.name} sector {lba} +{count}"
            with pytest.raises(NativeError) as caught:
                native.read(sectors - 1, 2)
            assert caught.value.fields["code"] == "OBD_E_RANGE"
    finally:
        native.close()


@pytest.mark.parametrize("config", sorted(GOLDEN.glob("config*.json")), ids=lambda p: p.name)
def test_goldens_read_the_same(config: Path, tmp_path: Path) -> None:
    compare(config, GOLDEN, tmp_path, seed=1)


def test_every_image_of_the_vectors_reads_the_same(vectors: Path, tmp_path: Path) -> None:
    names = json.loads((vectors / "manifest.json").read_text())["images"]
    assert len(names) >= 27
    for seed, name in enumerate(sorted(names)):
        compare(vectors / name, vectors, tmp_path, seed)
