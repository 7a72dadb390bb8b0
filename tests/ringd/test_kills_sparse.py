"""The engine on a sparse writable layer, killed at any moment and at the points of its writes.

Writes are in place: whatever the dead one left half done is done again before anything newer.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from obdsup.format.layer_writer import LayerWriter
from obdsup.format.upper_writer import create_upper
from tests.conftest import REPO, eventually
from tests.ringd.test_kills import DISK_BYTES, Engines, assert_good

pytestmark = [pytest.mark.integration, pytest.mark.native]


@pytest.fixture(scope="module")
def prog_serve_image() -> Path:
    native = REPO / "native"
    program = "build/release/prog_serve_image"
    subprocess.run(["make", "-s", "-C", str(native), program], check=True)
    return native / program


@pytest.fixture
def engines(tmp_path: Path, prog_serve_image: Path) -> Iterator[Engines]:
    served = Engines(tmp_path, prog_serve_image)
    yield served
    served.close()


@pytest.fixture
def image(tmp_path: Path) -> list[str]:
    """A sparse layer over one whose sectors are data (of zeros), so that holes are filled."""
    lower, data, index = (str(tmp_path / name) for name in ("lower", "data", "index"))
    with open(lower, "wb") as file:
        writer = LayerWriter(file, DISK_BYTES)
        writer.add_data(0, bytes(DISK_BYTES))
        writer.finish()
    create_upper(data, index, DISK_BYTES, is_sparse=True)
    return ["--lower", lower, "--upper", data, index]


def test_nothing_is_lost_when_the_engine_is_killed_again_and_again(
    engines: Engines, image: list[str]
) -> None:
    for turn in range(12):
        engines.serve(*image)
        reached = engines.completed() + 100 + 37 * (turn % 7)
        eventually(lambda reached=reached: engines.completed() >= reached, 30)
        engines.kill()
    engines.serve(*image)
    assert engines.recovered > 0  # the kills hit commands that were picked up
    assert_good(engines)


@pytest.mark.parametrize(
    "point", ["sparse.data", "sparse.block", "sparse.written", "zeroes.sync", "sparse.punched"]
)
def test_nothing_is_lost_when_the_engine_dies_at(
    engines: Engines, image: list[str], point: str
) -> None:
    for count in (1, 9):
        engines.serve(*image, "--crash-at", f"{point}:{count}")
        assert engines.wait_dead()[0] == -9
    engines.serve(*image)
    assert_good(engines)
