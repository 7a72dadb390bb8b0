"""The merged index of a large image is kept once nobody waits, and used at the next open."""

from __future__ import annotations

from pathlib import Path

import pytest

from obdsup.format.layer_writer import LayerWriter
from obdsup.worker import device as jobs
from obdsup.worker.device import CACHE_VARIABLE, Device
from obdsup.worker.requests import ImageFiles

SEGMENTS = 5000
SECTOR = 512


@pytest.fixture
def layer(tmp_path: Path) -> str:
    path = tmp_path / "layer.obd"
    with path.open("wb") as file:
        writer = LayerWriter(file, SEGMENTS * 2 * SECTOR)
        for i in range(SEGMENTS):
            writer.add_data(i * 2, bytes([i % 251 + 1]) * SECTOR)
        writer.finish()
    return str(path)


def opened(layer: str) -> Device:
    device = Device("d")
    end = jobs.open_image(device, ImageFiles([layer], None))
    assert end.error is None
    assert device.image is not None
    assert device.image.read(2 * 777, 1) == bytes([777 % 251 + 1]) * SECTOR
    return device


def test_index_is_kept_and_used(
    layer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    monkeypatch.setenv(CACHE_VARIABLE, str(cache))
    first = opened(layer)
    assert first.is_index_new
    jobs.keep_index(first)
    jobs.close(first)
    jobs.keep_index(first)  # nothing is open any more
    (kept,) = cache.glob("*.index")
    assert kept.stat().st_size == 64 + SEGMENTS * 16
    second = opened(layer)
    assert not second.is_index_new
    jobs.close(second)
    kept.write_bytes(kept.read_bytes()[:-1])
    third = opened(layer)
    assert third.is_index_new
    jobs.close(third)


def test_without_a_cache_nothing_is_kept(
    layer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    device = opened(layer)
    assert not device.is_index_new
    jobs.close(device)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "none"))
    device = opened(layer)
    assert not device.is_index_new
    jobs.close(device)
