"""All devices of this supervisor: made, found again, listed, removed."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import fields, replace

from obdsup.errors import AlreadyServed, ConfigError, DeviceNotFound, ObdError
from obdsup.state import tables
from obdsup.state.database import Database
from obdsup.state.device import DeviceOptions, DeviceRow, check_name
from obdsup.state.journal import JournalCounters
from obdsup.supervisor.device import Device, Progress
from obdsup.supervisor.device_machine import DeviceEvent, DeviceState
from obdsup.supervisor.fd_limit import check_room
from obdsup.supervisor.image_files import ImageFiles
from obdsup.supervisor.placement import Lodger
from obdsup.supervisor.provider import Providers
from obdsup.supervisor.record import Record
from obdsup.supervisor.release import short_path
from obdsup.supervisor.service_machine import ServiceState
from obdsup.supervisor.serving import Serving, ServingContext
from obdsup.supervisor.upper_files import DATA_NAME, INDEX_NAME
from obdsup.supervisor.worker import Worker

__all__ = ["Devices"]

SECTOR_BYTES = 512
SIZE_MAX_BYTES = 1 << 50
COUNTER_NAMES = tuple(field.name for field in fields(JournalCounters))  # asdict takes ten times it
log = logging.getLogger(__name__)


class Devices:
    """Owns the Device objects; safe from any thread."""

    def __init__(self, database: Database, providers: Providers) -> None:
        self._database = database
        self._providers = providers
        self._lock = threading.Lock()
        self._devices: dict[str, Device] = {}
        self._coming: set[str] = set()  # names whose create is being prepared
        # By name: devices that live, but whose rows are lost and could not be made anew, and why;
        # and those whose rows were, and from what.
        self.unclaimed: dict[str, str] = {}
        self.rebuilt: dict[str, str] = {}
        self._context: ServingContext
        self.default_provider = ""
        self.default_release = ""  # of new devices: changed by a rollout that is done

    def start(self, context: ServingContext, default_provider: str) -> None:
        """What is known only once the fleet is there; before any other call."""
        self._context = context
        self.default_provider = default_provider

    # -- looked at -------------------------------------------------------------------------------
    def all(self) -> list[Device]:
        """By name."""
        with self._lock:
            return [self._devices[name] for name in sorted(self._devices)]

    def get(self, name: object) -> Device:
        """The device of that name.

        Raises:
            DeviceNotFound: there is none.
        """
        with self._lock:
            found = self._devices.get(name) if isinstance(name, str) else None
        if found is None:
            raise DeviceNotFound(f"no device {name!r}", hint="see `obdsup device list`")
        return found

    def images(self) -> list[tuple[str, dict[str, object]]]:
        """What a standby opens in advance: every device that is in use."""
        return [
            (device.record.name, device.record.row.image_message())
            for device in self.all()
            if device.state in (DeviceState.SERVING, DeviceState.ONLINE, DeviceState.RETRACTING)
        ]

    def lodger(self, name: str) -> Lodger:
        """A device as placement sees it; one that is not there yet as any other."""
        with self._lock:
            device = self._devices.get(name)
        if device is None:
            return Lodger(name)
        row = device.record.row
        return Lodger(
            name, row.options.devices_per_worker, row.options.memory_max_bytes,
            device.serving.is_suspect, row.release,
        )  # fmt: skip

    def pinned_releases(self) -> set[str]:
        """Paths of all releases that devices are pinned to."""
        return {device.record.row.release for device in self.all()}

    def on_worker_exited(self, worker: Worker) -> None:
        """Tells the devices a dead worker served."""
        with self._lock:
            found = [self._devices.get(name) for name in sorted(worker.devices.copy())]
        for device in found:
            if device is not None:
                device.serving.worker_exited(worker)

    # -- operations ------------------------------------------------------------------------------
    def create(
        self,
        name: object,
        image: object,
        *,
        is_writable: bool,
        size_bytes: object,
        provider: object,
        progress: Progress,
        options: DeviceOptions | None = None,
    ) -> Device:
        """Makes a device and returns it online.

        Raises:
            ConfigError: a bad name, image path, size or provider.
            AlreadyServed: there is a device of that name.
            ObdError: what a step failed with; everything made is taken back.
        """
        name = check_name(name)
        if not isinstance(image, str):
            raise ConfigError(f"image {image!r} is not a path")
        size = None if size_bytes is None else _check_size(size_bytes)
        provider_name = str(provider or "auto")
        if provider_name == "auto":
            provider_name = self.default_provider
        self._providers.get(provider_name)
        with self.reserved(name):
            self._require_claimed(name)
            self._require_room(name)
            row = self._plan(name, image, provider_name, is_writable, size, progress)
            device = self._add(replace(row, options=options or DeviceOptions()))
        return self._bring_up(device, progress)

    def adopt_foreign(self, row: DeviceRow, progress: Progress) -> Device:
        """Serves a device that somebody else made; returns it online.

        Raises:
            AlreadyServed: there is a device of that name.
            ObdError: what a step failed with; the row is gone again.
        """
        with self.reserved(row.name):
            self._require_claimed(row.name)
            self._require_room(row.name)
            device = self._add(row)
        return self._bring_up(device, progress)

    def _require_claimed(self, name: str) -> None:
        """A new device of that name would take the writable layer of the lost one for debris."""
        if name in self.unclaimed:
            raise AlreadyServed(
                f"a device {name} lives whose row is lost: {self.unclaimed[name]}",
                hint="choose another name, or see `obdsup status`",
            )

    def _require_room(self, name: str) -> None:
        try:
            check_room()
        except ConfigError as error:
            self._context.events.emit(
                "operation.refused", name, level=logging.ERROR, reason=str(error)
            )
            raise

    @contextlib.contextmanager
    def reserved(self, name: str) -> Iterator[None]:
        """Nobody else can make a device of that name meanwhile.

        Raises:
            AlreadyServed: there is one, or it is being made.
        """
        with self._lock:
            if name in self._devices or name in self._coming:
                raise AlreadyServed(f"there is a device {name} already", hint="choose another name")
            self._coming.add(name)
        try:
            yield
        finally:
            with self._lock:
                self._coming.discard(name)

    def _bring_up(self, device: Device, progress: Progress) -> Device:
        try:
            device.run("create", DeviceEvent.STARTED, progress)
        finally:
            self._drop_if_gone(device)
        self.prewarm(device)
        return device

    def prewarm(self, device: Device) -> None:
        """Has standbys open its image, in the background."""
        self._context.fleet.prewarm(device.record.name, device.record.row.image_message())

    def remove(self, name: object, progress: Progress) -> None:
        """Takes a device away; its own writable layer goes with it.

        Raises:
            DeviceNotFound: there is none.
            ObdError: it is in use, or a step failed.
        """
        device = self.get(name)
        try:
            device.run("remove", DeviceEvent.REMOVE_ASKED, progress)
        finally:
            self._drop_if_gone(device)
        self._context.fleet.forget(device.record.name)

    def _plan(
        self,
        name: str,
        image: str,
        provider: str,
        is_writable: bool,
        size_bytes: int | None,
        progress: Progress,
    ) -> DeviceRow:
        """Everything that can be checked before anything is made."""
        settings = self._context.settings
        folder = settings.device_state_dir(name)
        shutil.rmtree(folder, ignore_errors=True)  # debris of an earlier device: it has no row
        progress("opening the image")
        files = self._open_config(name, image)
        image_bytes = files.size_bytes
        data, index = files.upper or (None, None)
        own_upper = files.upper is None and is_writable
        if own_upper:
            data, index = (str(folder / "upper" / part) for part in (DATA_NAME, INDEX_NAME))
        size = size_bytes if size_bytes is not None else image_bytes
        if not size:
            raise ConfigError(f"device {name} has no size", hint="give --size")
        if size < image_bytes or (size != image_bytes and not own_upper):
            raise ConfigError(f"size {size} does not fit: the image has {image_bytes} bytes")
        _check_size(size)
        return DeviceRow(
            name=name, uuid=str(uuid.uuid4()), image=image, lowers=files.lowers, upper_data=data,
            upper_index=index, size_bytes=size, provider=provider, provider_ids={},
            phase=DeviceState.PLANNED.value, created=time.time(), release=self.default_release,
        )  # fmt: skip

    def _open_config(self, name: str, image: str) -> ImageFiles:
        """Has a standby read the config and open what it names, which validates all of it.

        Raises:
            ConfigError, FormatError: what is wrong with the config or one of its files.
        """
        if not os.path.isabs(image):
            raise ConfigError(f"image {image!r} is not an absolute path")
        return ImageFiles.of_answer(self._context.fleet.open_image(name, {"config": image}))

    def _add(self, row: DeviceRow) -> Device:
        context = self._context
        provider = self._providers.get(row.provider)
        record = Record(self._database, row)
        serving = Serving(context, record, provider)
        device = Device(context.settings, context.events, record, provider, serving)
        with self._lock:
            self._devices[row.name] = device
        return device

    def _drop_if_gone(self, device: Device) -> None:
        if device.is_gone:
            with self._lock:
                self._devices.pop(device.record.name, None)

    # -- after a restart ---------------------------------------------------------------------------
    def load(self, doubt: Callable[[DeviceRow], str]) -> list[Device]:
        """The devices found in state.db, with nobody known to serve them yet.

        A device whose provider is missing is reported and left alone; so is one whose row
        ``doubt`` says something against.
        """
        loaded = []
        for row in self._database.read(tables.load_devices):  # type: ignore[attr-defined]
            if doubt(row):
                continue
            try:
                loaded.append(self._add(replace(row, release=short_path(row.release))))
            except ObdError as error:
                self._context.events.emit(
                    "device.failed", row.name, level=logging.ERROR, reason=str(error)
                )
        return loaded

    def add_found(self, row: DeviceRow) -> Device:
        """A device whose row was made anew; nobody is known to serve it yet."""
        return self._add(row)

    def resume(self, device: Device) -> None:
        """Rolls an interrupted operation forward, or back; in a thread of its own."""
        threading.Thread(
            target=self._resume, args=(device,), name=f"resume-{device.record.name}", daemon=True
        ).start()

    def _resume(self, device: Device) -> None:
        try:
            device.run("resume", DeviceEvent.RESUMED)
        except ObdError as error:
            log.warning("operation.refused dev=%s reason=%s", device.record.name, error)
        finally:
            self._drop_if_gone(device)

    def void(self, row: DeviceRow) -> None:
        """Forgets a device that went with the host. Its writable layer is data: put aside."""
        settings = self._context.settings
        folder, kept = settings.device_state_dir(row.name), ""
        if folder.exists():
            aside = settings.state_dir / "void" / f"{row.name}-{row.uuid}"
            aside.parent.mkdir(mode=0o700, exist_ok=True)
            folder.rename(aside)
            kept = str(aside)
        self._context.events.emit(
            "device.void", row.name, level=logging.WARNING, reason="the host was started anew",
            kept=kept,
        )  # fmt: skip
        self._database.commit(tables.delete_device(row.name))

    # -- every second ------------------------------------------------------------------------------
    def checkpoint(self) -> None:
        """Queues ring positions and counters of all devices for state.db."""
        rows = []
        for device in self.all():
            if device.serving.state is ServiceState.RELEASED:
                continue
            journal = device.serving.journal
            counters = journal.counters()
            sequence, offset = journal.next_position()
            rows.append(
                (
                    device.record.name, time.time(), counters.owner_generation, sequence, offset,
                    {name: getattr(counters, name) for name in COUNTER_NAMES},
                )
            )  # fmt: skip
        if rows:
            self._database.later(tables.put_checkpoint(rows))


def _check_size(size_bytes: object) -> int:
    if (
        not isinstance(size_bytes, int)
        or isinstance(size_bytes, bool)
        or not 0 < size_bytes <= SIZE_MAX_BYTES
        or size_bytes % SECTOR_BYTES
    ):
        raise ConfigError(
            f"size {size_bytes!r} is not usable",
            hint=f"a multiple of {SECTOR_BYTES} bytes, more than 0, at most {SIZE_MAX_BYTES}",
        )
    return size_bytes
