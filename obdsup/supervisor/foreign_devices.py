"""Devices that somebody else made in configfs: served, let go of, and known by their rings."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from obdsup.errors import AlreadyServed, ConfigError, DeviceNotFound, ObdError, StateError
from obdsup.state.device import DeviceOptions, DeviceRow, check_name
from obdsup.supervisor.device import Device
from obdsup.supervisor.device_machine import DeviceState
from obdsup.supervisor.devices import Devices
from obdsup.supervisor.foreign_image import ForeignImage, inspect_image
from obdsup.supervisor.provider.foreign_rings import FOREIGN_PROVIDER, ForeignRing
from obdsup.supervisor.provider.tcmu_foreign import ForeignTcmuProvider
from obdsup.supervisor.result_file import write_result
from obdsup.supervisor.serving import ServingContext

__all__ = ["ForeignDevices"]

ATTACH_AT_ONCE = 8  # more would only wait for workers to be started
LET_GO_S = 60.0
_RETRY_S = 0.05
_DISKS_EVERY_S, _DISKS_FOR_S = 0.5, 120.0


class ForeignDevices:
    """What is done with rings of others; safe from any thread, each call may block."""

    def __init__(
        self, context: ServingContext, devices: Devices, provider: ForeignTcmuProvider
    ) -> None:
        self._context = context
        self._devices = devices
        self._provider = provider
        self._attaching = threading.BoundedSemaphore(ATTACH_AT_ONCE)
        self._lock = threading.Lock()
        self._names: set[str] = set()  # being made
        self._disks_until_s = 0.0
        self._is_looking = False

    def all(self) -> list[tuple[ForeignRing, Device]]:
        """Those that have a row."""
        return [
            (ForeignRing.of_ids(device.record.row.provider_ids), device)
            for device in self._devices.all()
            if device.record.row.options.is_foreign and device.record.row.provider_ids
        ]

    def find(self, ring: ForeignRing) -> Device | None:
        """The device of a ring; made again for another image, it is still the same place."""
        for found, device in self.all():
            if (found.hba, found.device) == (ring.hba, ring.device):
                return device
        return None

    def serve(self, ring: ForeignRing, progress: Callable[[str], None]) -> Device:
        """Opens the image and serves the ring; says how it went in the image's result file.

        Raises:
            ObdError: why it is not served; nothing of it is left.
        """
        name, result_file = ring.device, ""
        try:
            with self._named(ring) as name:
                image = self._inspect(name, ring)
                result_file = image.result_file
                with self._attaching:
                    row = self._row(name, ring, image)
                    device = self._devices.adopt_foreign(row, progress)
        except ObdError as error:
            result_file = result_file or str(error.fields.get("result_file") or "")
            write_result(result_file, error)
            self._context.events.emit(
                "device.failed", name, level=logging.ERROR, reason=str(error), config=ring.config
            )
            raise
        write_result(result_file, None)
        self._context.events.emit("device.adopted", name, config=ring.config, hba=ring.hba)
        self._look_for_disks()
        return device

    def let_go(self, ring: ForeignRing, timeout_s: float = LET_GO_S) -> str:
        """Nobody serves the ring when this returns, and nothing is known of it; its name, "" when
        there was none.

        Raises:
            ObdError: it is served on.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            device = self.find(ring)
            if device is None:
                return ""
            name = device.record.name
            try:
                self._devices.remove(name, lambda text: None)
            except DeviceNotFound:
                return name  # somebody else did it
            except StateError:  # another operation is under way
                if time.monotonic() >= deadline:
                    raise
                time.sleep(_RETRY_S)
            else:
                self._context.events.emit("device.released", name, config=ring.config)
                return name

    def resize(self, ring: ForeignRing, size_bytes: int) -> None:
        """A size is the image's: only that one is accepted.

        Raises:
            ObdError: why not.
        """
        device = self.find(ring)
        if device is None:
            raise DeviceNotFound(f"no device is served for {ring.hba}/{ring.device}")
        image_bytes = device.record.row.size_bytes
        if size_bytes != image_bytes:
            raise ConfigError(
                f"device {device.record.name}: size {size_bytes} is not the image's, which has"
                f" {image_bytes} bytes", hint="enlarge the image, then make the device again",
            )  # fmt: skip
        self._context.events.emit("device.resized", device.record.name, size_bytes=size_bytes)

    # -- making ------------------------------------------------------------------------------------
    @contextmanager
    def _named(self, ring: ForeignRing) -> Iterator[str]:
        """A name that is its own while it is being made."""
        name = self._take_name(ring)
        try:
            yield name
        finally:
            with self._lock:
                self._names.discard(name)

    def _inspect(self, name: str, ring: ForeignRing) -> ForeignImage:
        try:
            ring.config.encode()
        except UnicodeEncodeError:
            raise ConfigError(f"dev_config {ring.config!r} is not UTF-8") from None
        dev_id = ring.dev_id
        for other, device in self.all():
            if dev_id and other.dev_id == dev_id:
                raise AlreadyServed(f"device {device.record.name} has dev_id {dev_id!r} already")
        return inspect_image(self._context.settings, self._context.fleet, name, ring.path)

    def _row(self, name: str, ring: ForeignRing, image: ForeignImage) -> DeviceRow:
        files = image.files
        data, index = files.upper or (None, None)
        return DeviceRow(
            name=name, uuid=ring.uuid, image=ring.path, lowers=files.lowers, upper_data=data,
            upper_index=index, size_bytes=files.size_bytes, provider=FOREIGN_PROVIDER,
            provider_ids=ring.ids, phase=DeviceState.PLANNED.value, created=time.time(),
            options=DeviceOptions(
                is_foreign=True, devices_per_worker=self._context.settings.foreign_per_worker
            ),
        )  # fmt: skip

    def _take_name(self, ring: ForeignRing) -> str:
        """The name configfs has for it, if that will do and is free.

        Raises:
            AlreadyServed: it is being made.
        """
        short = ring.uuid[:8]
        try:
            wanted = [check_name(ring.device), check_name(f"{ring.device[:50]}.{short}")]
        except ConfigError:
            wanted = [f"foreign.{short}"]
        with self._lock:
            taken = self._names | {device.record.name for device in self._devices.all()}
            for name in wanted:
                if name not in taken:
                    self._names.add(name)
                    return name
        raise AlreadyServed(f"there is a device {wanted[-1]} already")

    # -- the disks, which their makers show later --------------------------------------------------
    def _look_for_disks(self) -> None:
        with self._lock:
            self._disks_until_s = time.monotonic() + _DISKS_FOR_S
            if self._is_looking:
                return
            self._is_looking = True
        threading.Thread(target=self._note_disks, name="foreign-disks", daemon=True).start()

    def _note_disks(self) -> None:
        while True:
            without = [device for _, device in self.all() if not device.record.row.block_device]
            disks = self._provider.disks() if without else {}
            for device in without:
                ids = device.record.row.provider_ids
                node = disks.get((int(ids["hba"]), str(ids["device"])))
                if node and device.state is DeviceState.ONLINE:
                    device.record.later(block_device=node)
            with self._lock:
                if not without or time.monotonic() >= self._disks_until_s:
                    self._is_looking = False
                    return
            time.sleep(_DISKS_EVERY_S)
