"""turboOCI images through the tools' C core: the recorded digests, and one layer made of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from obdsup.format import config
from obdsup.image.export import disk_sha256
from tests.format.disk_model import substituted


@pytest.mark.parametrize("name", ["turbo/config.gz.1.json", "turbo/config.erofs.3.json"])
def test_digest_is_the_recorded_one(vectors: Path, tmp_path: Path, name: str) -> None:
    expected = json.loads((vectors / "manifest.json").read_text())["images"][name]["sha256"]
    files = config.load(substituted(vectors / name, tmp_path, "@VECTORS@", vectors))
    assert disk_sha256(files) == expected
