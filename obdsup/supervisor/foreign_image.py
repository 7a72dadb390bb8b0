"""The image of a device that somebody else made: looked at by a standby, within a bound."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from obdsup.errors import ObdError, WorkerLost
from obdsup.supervisor.fleet import Fleet
from obdsup.supervisor.image_files import ImageFiles
from obdsup.supervisor.settings import Settings

__all__ = ["ForeignImage", "inspect_image"]

STANDBY_PATIENCE_S = 120.0  # a hundred devices may ask at once
READ_CONFIG_S = 10.0
AT_ONCE = 4
SLOT_PATIENCE_S = 1.0

_slots = threading.BoundedSemaphore(AT_ONCE)


@dataclass(frozen=True, slots=True)
class ForeignImage:
    """What a config.v1.json names, opened once without error."""

    files: ImageFiles
    result_file: str  # "" when the outcome is not asked for


def inspect_image(settings: Settings, fleet: Fleet, name: str, path: str) -> ForeignImage:
    """Reads the config and opens what it names; serves nothing.

    Raises:
        ObdError: what is wrong with it; field ``result_file`` says where to report that, if known.
    """
    with _turn():
        worker = fleet.acquire(name, STANDBY_PATIENCE_S)
        result_file = ""
        try:
            config = worker.link.call_aside("read_config", READ_CONFIG_S, config=path).body
            result_file = str(config["result_file"])
            answer = worker.link.call_aside(
                "prewarm", settings.serve_timeout_s, device=name, image=config["files"]
            ).body
        except ObdError as error:
            error.fields.setdefault("result_file", result_file)
            if isinstance(error, WorkerLost):
                fleet.discard(worker, name)  # waits for a file that does not answer, or is dead
            else:
                fleet.give_back(worker, name)
            raise
        fleet.give_back(worker, name)
    return ForeignImage(ImageFiles.of_answer(answer), result_file)


@contextmanager
def _turn() -> Iterator[None]:
    """A few at a time, so that a hundred do not start a hundred standbys; who has waited a while
    goes anyway, so that those who wait for a silent file hold up nobody.
    """
    is_taken = _slots.acquire(timeout=SLOT_PATIENCE_S)
    try:
        yield
    finally:
        if is_taken:
            _slots.release()
