"""A standby that is about to serve catches up with the writer first, however much that is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from chaos.stall.prior_writes import append_history
from obdsup.worker import device as jobs
from obdsup.worker.device import NEAR_RECORDS, ROUNDS_MAX, Device, catch_up
from obdsup.worker.machine import Action, Event, State, step
from obdsup.worker.requests import ImageFiles

SIZE_BYTES = 64 << 20
RECORDS = 300_000


class WrittenImage:
    """An image whose writer appends during each round a share of what the round took."""

    def __init__(self, behind: int, share: float) -> None:
        self.records, self.behind, self.rounds, self._share = 0, behind, 0, share

    def stat(self) -> dict[str, int]:
        return {"upper_records": self.records}

    def follow(self) -> None:
        taken = self.behind
        self.rounds += 1
        self.records, self.behind = self.records + taken, int(taken * self._share)


def caught_up(behind: int, share: float) -> WrittenImage:
    image: Any = WrittenImage(behind, share)
    catch_up(image)
    return image  # type: ignore[no-any-return]


def test_an_image_that_is_open_catches_up_when_it_is_asked_for_again(tmp_path: Path) -> None:
    data, index = tmp_path / "data", tmp_path / "index"
    make = ["image", "new-upper", "--size", str(SIZE_BYTES), str(data), str(index)]
    subprocess.run([sys.executable, "-m", "obdsup.cli", *make], check=True)
    device, files = Device("a"), ImageFiles([], (str(data), str(index)))
    try:
        assert jobs.open_image(device, files).error is None
        assert device.image is not None
        before = device.image.stat()["upper_records"]
        append_history(data, index, RECORDS, SIZE_BYTES, seed=1)
        assert jobs.open_image(device, files).error is None
        assert device.image.stat()["upper_records"] == before + RECORDS
    finally:
        jobs.close(device)


def test_asking_for_a_warm_image_is_a_job() -> None:
    assert step(State.WARM, Event.PREWARM_ASKED) == (State.OPENING, Action.OPEN)


def test_it_ends_when_little_is_left_whatever_was_written() -> None:
    for behind in (0, NEAR_RECORDS, RECORDS, 100 * RECORDS):
        image = caught_up(behind, 0.5)
        assert image.behind <= NEAR_RECORDS
        assert image.rounds < ROUNDS_MAX
    assert caught_up(NEAR_RECORDS, 0.5).rounds == 1


def test_a_writer_that_is_as_fast_does_not_keep_it_for_ever() -> None:
    assert caught_up(RECORDS, 1.0).rounds == ROUNDS_MAX
