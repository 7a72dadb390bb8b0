"""Standbys hold the images of all devices open, so that a take-over has nothing to open."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterable

from obdsup.errors import ObdError
from obdsup.supervisor.event_log import EventLog
from obdsup.supervisor.settings import Settings
from obdsup.supervisor.worker import Worker

__all__ = ["Warming"]

PREWARM_TIMEOUT_S = 60.0
PATIENCE_S = 1.0  # a standby that waits longer for one image would be missing for all others
IMPATIENCE_S = 0.02  # for each image after one that did not answer: they may lie on one dead disk
OPENING_MAX = 16  # images that do not answer, per standby; each holds a thread there and here

Images = Callable[[], Iterable[tuple[str, dict[str, object]]]]  # device name, image message


class Warming:
    """Has workers open and close images, in threads of their own."""

    def __init__(self, settings: Settings, events: EventLog, images: Images) -> None:
        self._settings = settings
        self._events = events
        self._images = images

    def warm(self, worker: Worker) -> None:
        """Returns when every image was opened or did not answer for a while. An image that does not
        answer is left to open while others do."""
        opening: list[threading.Thread] = []
        patience_s = PATIENCE_S
        for device, image in list(self._images())[: self._settings.prewarm_max]:
            if worker.has_exited.is_set() or len(opening) >= OPENING_MAX:
                return
            opening.append(self._start(worker, device, image))
            opening[-1].join(patience_s)
            patience_s = IMPATIENCE_S if opening[-1].is_alive() else PATIENCE_S
            opening = [thread for thread in opening if thread.is_alive()]

    def open(self, worker: Worker, device: str, image: dict[str, object]) -> None:
        """Has a worker open one image, in the background."""
        self._start(worker, device, image)

    def close(self, worker: Worker, device: str) -> None:
        """Has a worker close one image, in the background."""
        worker.images.discard(device)
        threading.Thread(
            target=self._forget, args=(worker,), kwargs={"device": device},
            name=f"forget-{worker.id}", daemon=True,
        ).start()  # fmt: skip

    def close_others(self, worker: Worker) -> None:
        """Has a worker close the images of all devices that it does not serve; an older release
        does not know how and keeps them."""
        worker.images.clear()
        self._forget(worker, others=True)

    def _start(self, worker: Worker, device: str, image: dict[str, object]) -> threading.Thread:
        thread = threading.Thread(
            target=self._open, args=(worker, device, image), name=f"prewarm-{worker.id}",
            daemon=True,
        )  # fmt: skip
        thread.start()
        return thread

    def _open(self, worker: Worker, device: str, image: dict[str, object]) -> None:
        """A device whose image can not be opened is its own problem: served devices go on."""
        try:
            worker.link.call_aside("prewarm", PREWARM_TIMEOUT_S, device=device, image=image)
            worker.images.add(device)
        except ObdError as error:
            if not worker.has_exited.is_set():
                self._events.emit(
                    "worker.slow", device, level=logging.WARNING, worker=worker.id,
                    reason=str(error),
                )  # fmt: skip

    def _forget(self, worker: Worker, **fields: object) -> None:
        with contextlib.suppress(ObdError):
            worker.link.call_aside("forget", PREWARM_TIMEOUT_S, **fields)
