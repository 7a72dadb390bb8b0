"""One device of a worker, and the jobs that change it.

While a job runs (``machine.BUSY``) only its thread touches the device's image and fds; otherwise
only the loop's. ``lock`` guards the image against the one thread that may come in between: the
follower. A job never raises an ``ObdError``: it returns how it ended.
"""

from __future__ import annotations

import os
from collections import deque
from threading import Lock

from obdsup.errors import NativeError, ObdError
from obdsup.worker import log
from obdsup.worker.machine import Event, State
from obdsup.worker.native import Image, Ring, code_name
from obdsup.worker.requests import ImageFiles

TYPE_CHECKING = False
if TYPE_CHECKING:
    from obdsup.worker.native import Engine
    from obdsup.worker.requests import ImageConfigFile, Request

# Where merged indexes are kept, set by the supervisor; as long as releases differ in their options
# an environment variable is what an older worker does not refuse.
CACHE_VARIABLE = "OBDSUP_CACHE"

__all__ = [
    "Device", "JobEnd", "attach", "catch_up", "close", "detach", "drop", "follow", "keep_index",
    "open_image", "read_config",
]  # fmt: skip

NEAR_RECORDS = 4096  # so many are picked up within a millisecond or two
ROUNDS_MAX = 64


class JobEnd:
    """How a job ended: the event for the machine, and what to answer."""

    __slots__ = ("answer", "error", "event")

    def __init__(
        self,
        event: Event,
        error: ObdError | None = None,
        answer: dict[str, object] | None = None,
    ) -> None:
        self.event, self.error, self.answer = event, error, answer or {}


class Device:
    """A device by name. Owns its image, and while serving the ring's fds and the journal's."""

    __slots__ = (
        "device_id", "failed", "fds", "files", "generation", "image", "is_index_new", "is_writable",
        "job_request", "kind", "lock", "map_bytes", "name", "size_bytes", "spec", "state",
        "waiting",
    )  # fmt: skip

    def __init__(self, name: str) -> None:
        self.name = name
        self.state = State.ABSENT
        self.files: ImageFiles | None = None
        self.image: Image | None = None
        self.size_bytes = 0
        self.is_writable = False
        self.is_index_new = False  # to be kept once nobody waits for the answer
        self.lock = Lock()
        self.device_id = 0
        self.generation = 0
        self.kind = ""
        self.map_bytes = 0
        self.spec: dict[str, object] = {}  # as the supervisor gave it
        self.fds: list[int] = []  # ring fds, then the journal's
        self.failed = ""  # name of the error the engine dropped it with
        self.job_request: tuple[object, Request] | None = None
        self.waiting: deque[tuple[object, Request]] = deque()

    def describe_image(self) -> dict[str, object]:
        """The answer to ``prewarm``."""
        files = self.files.to_json() if self.files is not None else None
        return {"size_bytes": self.size_bytes, "is_writable": self.is_writable, "files": files}


def _close_image(device: Device) -> None:
    image, device.image, device.files = device.image, None, None
    if image is not None:
        image.close()


def _close_fds(device: Device) -> None:
    while device.fds:
        os.close(device.fds.pop())


def _ensure_open(device: Device, files: ImageFiles) -> None:
    if device.image is not None and device.files == files:
        return
    _close_image(device)
    image = Image(files.lowers, files.upper, os.environ.get(CACHE_VARIABLE, ""))
    device.image, device.files = image, files
    device.size_bytes, device.is_writable = image.size_bytes, image.is_writable
    device.is_index_new = image.is_index_new


def open_image(device: Device, files: ImageFiles | ImageConfigFile) -> JobEnd:
    """Opens the image as a follower, in place of another one of this device, and catches up with
    who writes it: a ``serve`` that comes next has little left to read, however much was written
    since the image was opened, or while it was.
    """
    with device.lock:
        try:
            _ensure_open(device, files.resolve())
            if device.is_writable and device.image is not None:
                catch_up(device.image)
        except ObdError as error:
            _close_image(device)
            return JobEnd(Event.OPEN_FAILED, error)
    return JobEnd(Event.OPENED, answer=device.describe_image())


def catch_up(image: Image) -> None:
    """Follows until a round finds next to nothing. What is appended during one round is the next
    one's; a writer as fast as the follower ends it after some rounds.

    Raises:
        FormatError, NativeError: as of ``Image.follow``.
    """
    for _ in range(ROUNDS_MAX):
        before = image.stat()["upper_records"]
        image.follow()
        if abs(image.stat()["upper_records"] - before) <= NEAR_RECORDS:
            return


def read_config(path: str) -> JobEnd:
    """The files a config names and where the outcome is to be reported; opens no layer.

    The report's place is in field ``result_file`` also of an error.
    """
    from obdsup.format import config  # once per device, in one worker: not worth its memory

    try:
        loaded = config.load(path)
    except ObdError as error:
        error.fields["result_file"] = config.result_file(path)
        return JobEnd(Event.OPEN_FAILED, error)
    files = ImageFiles(loaded.lower_lines(), loaded.upper)
    answer: dict[str, object] = {"files": files.to_json()}
    answer["result_file"] = config.result_file(path)
    return JobEnd(Event.OPENED, answer=answer)


def attach(device: Device, engine: Engine, request: Request) -> JobEnd:
    """Opens the image unless it is warm, and takes the ring; on success owns the packet's fds."""
    order, files = request.serve, request.image
    assert order is not None
    assert files is not None
    fds = request.packet.fds
    ring = Ring(
        kind=order.kind,
        map_bytes=order.map_bytes,
        fds=fds[:-1],
        journal_fd=fds[-1],
        boot_id=order.boot_id,
        uuid=order.uuid,
        generation=order.generation,
        mode=order.mode,
        is_blamed=order.is_blamed,
        poison_after=order.poison_after,
    )
    with device.lock:
        try:
            _ensure_open(device, files.resolve())
        except ObdError as error:
            return JobEnd(Event.OPEN_FAILED, error)
        assert device.image is not None
        try:
            result, poisoned = engine.attach(device.name, ring, device.image)
        except ObdError as error:
            return JobEnd(Event.ATTACH_FAILED, error)
    device.fds, request.packet.fds = fds, []
    device.device_id, device.generation = result["device_id"], order.generation
    device.kind, device.map_bytes, device.failed = order.kind, order.map_bytes, ""
    device.spec = order.spec
    names = ("recovered", "already_done", "dropped", "attach_ns")
    answer: dict[str, object] = {name: result[name] for name in names}
    answer["poisoned"] = [command.to_json() for command in poisoned]
    if result["poisoned_cnt"]:
        log.event("command.poisoned", log.WARNING, dev=device.name, cnt=result["poisoned_cnt"])
    return JobEnd(Event.ATTACHED, answer=answer)


def detach(device: Device, engine: Engine, timeout_ms: int, *, is_last: bool = False) -> JobEnd:
    """Lets go of the ring at a command boundary; the image stays open as a follower.

    Args:
        is_last: nobody is going to serve it: what was written becomes durable, and the upper's
            files complete for readers that know nothing of ours.
    """
    try:
        engine.detach(device.name, device.device_id, timeout_ms)
    except NativeError as error:
        if error.fields.get("code") == "OBD_E_TIMEOUT":
            return JobEnd(Event.DETACH_FAILED, error)
        return _let_go(device, error)
    except ObdError as error:
        return _let_go(device, error)
    _close_fds(device)
    if is_last:
        _settle(device)
    return JobEnd(Event.DETACHED)


def _settle(device: Device) -> None:
    """A disk that fails must not make a device immortal: told, and no reason to go on serving."""
    if device.is_writable and device.image is not None:
        try:
            device.image.settle()
        except ObdError as error:
            log.event("image.unsettled", log.WARNING, dev=device.name, reason=error)


def _let_go(device: Device, error: ObdError) -> JobEnd:
    device.failed = str(error.fields.get("code", type(error).__name__))
    _close_fds(device)
    with device.lock:
        _close_image(device)
    return JobEnd(Event.CLOSED, error)


def drop(device: Device, engine: Engine) -> JobEnd:
    """Cleans up after the engine dropped the device: nothing of the ring stays open here."""
    failed = device.failed
    end = detach(device, engine, timeout_ms=0)
    _close_fds(device)
    with device.lock:
        _close_image(device)
    device.failed = failed
    return JobEnd(Event.CLOSED, end.error)


def close(device: Device) -> JobEnd:
    """Closes the image."""
    with device.lock:
        _close_image(device)
    return JobEnd(Event.CLOSED)


def keep_index(device: Device) -> None:
    """Keeps the merged index for the next open, beside whoever reads; nothing depends on it."""
    with device.lock:
        if device.image is None:
            return
        try:
            device.image.save_index()
        except ObdError as error:
            log.event("image.index_not_kept", log.WARNING, dev=device.name, reason=error)


def follow(device: Device) -> ObdError | None:
    """Picks up what the writer appended since, unless a job has the image; returns a failure."""
    if not device.lock.acquire(blocking=False):
        return None
    try:
        if device.state is State.WARM and device.image is not None:
            device.image.follow()
    except ObdError as error:
        return error
    finally:
        device.lock.release()
    return None


def stat(device: Device, engine: Engine) -> dict[str, object]:
    """One row of ``stats``; ``image`` is null while a job has it."""
    row: dict[str, object] = {
        "name": device.name,
        "state": device.state.value,
        "generation": device.generation,
        "failed": device.failed or None,
        "in_flight": 0,
        "image": None,
        "size_bytes": device.size_bytes,
        "is_writable": device.is_writable,
    }
    if device.state is State.SERVING:
        code, row["in_flight"] = engine.stat(device.device_id)
        row["failed"] = code_name(code) if code else None
    if device.lock.acquire(blocking=False):
        try:
            row["image"] = device.image.stat() if device.image is not None else None
        finally:
            device.lock.release()
    return row
