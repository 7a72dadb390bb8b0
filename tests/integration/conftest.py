"""Whole services for the integration tests, each in a folder of its own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPO
from tests.integration.service import Service


def run_service(provider: str) -> Iterator[Service]:
    root = Path(tempfile.mkdtemp(prefix="obdI"))  # short: socket names are limited
    made = Service(root, provider)
    made.start()
    made.wait_for_standby()
    yield made
    made.close()
    shutil.rmtree(root)


@pytest.fixture
def load_service() -> Iterator[Service]:
    """Rings under a load whose every read is checked."""
    yield from run_service("load")


@pytest.fixture
def fuse_service() -> Iterator[Service]:
    """Real block devices; needs root."""
    yield from run_service("fuse")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """The config of a stack of three compressed layers."""
    folder = REPO / "tests" / "golden" / "mini"
    text = (folder / "config.m.json").read_text()
    path = tmp_path / "config.v1.json"
    path.write_text(text.replace("@GOLDEN@", str(folder)))
    return path
