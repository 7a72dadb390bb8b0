"""Devices that live and whose rows are lost, with the copies of the rows: made anew, or reported.

Who serves a device tells what it was told (``state.device_spec``); where nobody serves, the ring's
provider knows name, uuid, size and config. Either must agree with the journal and with each other:
a wrong row would be another device's data under a mounted file system. So what does not agree is
reported as unclaimed and left as it is, and nobody can make a device of that name meanwhile.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from dataclasses import replace

from obdsup.errors import AlreadyServed, ObdError, StateError
from obdsup.state import tables
from obdsup.state.database import Database
from obdsup.state.device import DeviceRow, check_name
from obdsup.state.device_spec import HISTORY, OPTION_NAMES, row_of_spec
from obdsup.state.journal import JournalHeader, JournalReader
from obdsup.supervisor.backoff import Backoff
from obdsup.supervisor.device import Device
from obdsup.supervisor.device_machine import DeviceState
from obdsup.supervisor.devices import Devices
from obdsup.supervisor.image_files import ImageFiles
from obdsup.supervisor.provider import Providers
from obdsup.supervisor.provider.base import FoundRing
from obdsup.supervisor.ring_keeper import ServingContext
from obdsup.supervisor.upper_files import DATA_NAME, INDEX_NAME

__all__ = ["Reclaim"]

_PHASE = DeviceState.ONLINE.value  # whatever fails, it may be in use: nothing is taken back
UNPUBLISHED = "its row was made anew, its block device is not found yet"  # reason of its row
log = logging.getLogger(__name__)


class Reclaim:
    """Finds them; safe from any thread."""

    def __init__(
        self, context: ServingContext, database: Database, devices: Devices, providers: Providers
    ) -> None:
        self._context = context
        self._database = database
        self._devices = devices
        self._providers = providers
        self._unserved: dict[str, str] = {}  # of the unclaimed: those known by their rings only

    # -- rows that can not be right ------------------------------------------------------------
    def doubt(self, row: DeviceRow) -> str:
        """Why a row of state.db is not of the device that lives under its name, or "".

        It is then left alone: taken for that device, it would serve the wrong files.
        """
        if row.generation == 0:
            return ""
        try:
            fd = os.open(self._context.settings.journal_path(row.name), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return ""
        try:
            header = _header(fd)
        finally:
            os.close(fd)
        if header is None or header.boot_id != self._context.boot_id:
            return ""
        if header.device_uuid == row.uuid:
            return ""
        reason = f"its row is of {row.uuid}, its journal of {header.device_uuid}"
        self.report(row.name, reason)
        return reason

    # -- served ------------------------------------------------------------------------------------
    def claim_served(
        self, name: str, told: dict[str, object], journal_fd: int, pid: int
    ) -> Device | None:
        """The device that a living worker serves and that has no row, or None: reported.

        Args:
            name: as the worker says.
            told: its row of the answer to a hello that names the device.
            journal_fd: that the worker gave back; not kept.
            pid: of the worker.
        """
        if name in self._devices.unclaimed:
            return None  # its row says something else: not for us to choose
        try:
            row, defaulted = row_of_spec(
                told.get("spec"), told.get("image"), _PHASE, int(str(told.get("generation")))
            )
            self._check_served(name, row, journal_fd, pid)
            return self._add(row, "its worker", (*defaulted, *HISTORY))
        except (ObdError, ValueError) as error:
            self.report(name, f"worker {pid} serves it, and it has no row: {error}")
            return None

    def _check_served(self, name: str, row: DeviceRow, journal_fd: int, pid: int) -> None:
        if check_name(row.name) != name:
            raise StateError(f"it was told to be {row.name}")
        header = _header(journal_fd)
        if header is None:
            raise StateError("its journal is damaged")
        if (header.device_uuid, header.boot_id) != (row.uuid, self._context.boot_id):
            raise StateError(f"its journal is of {header.device_uuid}, it was told {row.uuid}")
        owner = JournalReader(journal_fd).counters().owner_pid
        if owner != pid:
            raise StateError(f"its journal is written by process {owner}")
        if not self._providers.get(row.provider).exists(row.provider_ids):
            raise StateError(f"provider {row.provider} has no such ring")

    # -- not served --------------------------------------------------------------------------------
    def start(self) -> None:
        """Looks for rings without a row, in a thread of its own, until none is left."""
        threading.Thread(target=self._look, name="reclaim", daemon=True).start()

    def _look(self) -> None:
        backoff = Backoff(free_failures=0, first_s=0.5)
        while True:
            try:
                is_over = self._claim_rings()
            except ObdError as error:
                log.warning("reclaim.failed reason=%s", error)
                is_over = False
            if is_over:
                return
            time.sleep(backoff.failed(time.monotonic(), random.random()))

    def _claim_rings(self) -> bool:
        """One look; False: some can not be claimed yet."""
        known = {device.record.name for device in self._devices.all()}
        served = self._devices.unclaimed.keys() - self._unserved.keys()
        found = self._providers.found(known | served)
        for name in self._unserved.keys() - {ring.geometry.name for ring in found}:
            del self._unserved[name]  # it is gone
            self._devices.unclaimed.pop(name, None)
        left = [ring for ring in found if not self._claim_ring(ring)]
        return not left

    def _claim_ring(self, ring: FoundRing) -> bool:
        name = ring.geometry.name
        try:
            with self._devices.reserved(name):
                row = self._row_of_ring(ring)
                device = self._add(row, "its ring", (*OPTION_NAMES, *HISTORY))
        except AlreadyServed:
            return False  # just being made: known at the next look
        except ObdError as error:
            reason = f"its ring has no row and no worker: {error}"
            self._unserved[name] = reason
            self.report(name, reason)
            return False
        self._unserved.pop(name, None)
        device.serving.orphaned("nobody serves it, and its row was lost")
        self.republish(device)
        return True

    def _row_of_ring(self, ring: FoundRing) -> DeviceRow:
        """Raises ObdError: there is not enough to go by, or it does not agree."""
        geometry, settings = ring.geometry, self._context.settings
        name = check_name(geometry.name)
        generation = self._generation(ring)
        if not os.path.isabs(geometry.config_path):
            raise StateError(f"its config is not known: {geometry.config_path!r}")
        _require_older(geometry.config_path, ring.made_at)
        files = ImageFiles.of_answer(
            self._context.fleet.open_image(name, {"config": geometry.config_path})
        )
        folder = settings.device_state_dir(name) / "upper"
        own = (str(folder / DATA_NAME), str(folder / INDEX_NAME)) if folder.exists() else None
        if own and files.upper:
            raise StateError(f"its config names a writable layer, and it has one in {folder}")
        data, index = files.upper or own or (None, None)
        if ring.is_read_only is not None and ring.is_read_only != (data is None):
            kind = "read-only" if ring.is_read_only else "writable"
            raise StateError(f"its ring is {kind}, its image is not")
        size = geometry.size_bytes
        if size < files.size_bytes or (size != files.size_bytes and not own):
            raise StateError(f"its ring has {size} bytes, its image {files.size_bytes}")
        return DeviceRow(
            name=name, uuid=geometry.uuid, image=geometry.config_path, lowers=files.lowers,
            upper_data=data, upper_index=index, size_bytes=size, provider=ring.provider,
            provider_ids=ring.ids, phase=_PHASE, created=ring.made_at, generation=generation,
            release=self._devices.default_release,
        )  # fmt: skip

    def _generation(self, ring: FoundRing) -> int:
        """Of its journal; 1 when there is none: the ring may have been used, so it is reset."""
        path, uuid = self._context.settings.journal_path(ring.geometry.name), ring.geometry.uuid
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            fd = -1
        try:
            header = _header(fd) if fd >= 0 else None
            if header is None:
                if ring.is_ours:
                    return 1
                raise StateError(f"{path} does not show that it is of this supervisor")
            if (header.device_uuid, header.boot_id) != (uuid, self._context.boot_id):
                raise StateError(f"its journal is of {header.device_uuid}, its ring of {uuid}")
            return max(JournalReader(fd).generation(), 1)
        finally:
            if fd >= 0:
                os.close(fd)

    # -- its block device --------------------------------------------------------------------------
    def republish(self, device: Device) -> None:
        """Finds the block device of one whose row was made anew, in a thread of its own; tried
        until it is found, or the device removed."""
        if device.record.row.reason == UNPUBLISHED:
            threading.Thread(
                target=self._republish, args=(device,), daemon=True,
                name=f"publish-{device.record.name}",
            ).start()  # fmt: skip

    def _republish(self, device: Device) -> None:
        backoff = Backoff(free_failures=0, first_s=0.2)
        while device.state is DeviceState.ONLINE:
            try:
                device.republish()
            except ObdError as error:
                log.warning("publish.retried dev=%s reason=%s", device.record.name, error)
                time.sleep(backoff.failed(time.monotonic(), random.random()))
            else:
                return

    # -- both --------------------------------------------------------------------------------------
    def _add(self, row: DeviceRow, source: str, defaulted: tuple[str, ...]) -> Device:
        row = replace(row, reason=UNPUBLISHED)
        self._database.later(tables.put_device(row))
        self._database.note_found(source, row.name)
        device = self._devices.add_found(row)
        text = f"made anew from {source}; not known: {', '.join(defaulted)}"
        self._devices.unclaimed.pop(row.name, None)
        self._devices.rebuilt[row.name] = text
        self._context.events.emit(
            "device.rebuilt", row.name, level=logging.ERROR, source=source,
            defaulted=",".join(defaulted),
        )  # fmt: skip
        return device

    def report(self, name: str, reason: str) -> None:
        """Says it once, and keeps the name from being used."""
        if self._devices.unclaimed.get(name) != reason:
            self._devices.unclaimed[name] = reason
            self._context.events.emit("device.unclaimed", name, level=logging.ERROR, reason=reason)


def _header(fd: int) -> JournalHeader | None:
    try:
        return JournalReader(fd).header()
    except StateError:
        return None


def _require_older(path: str, made_at: float) -> None:
    """A config that was changed since may name other files than the device has."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise StateError(f"its config {path}: {error.strerror}") from error
    if max(status.st_mtime, status.st_ctime) > made_at:
        raise StateError(
            f"its config {path} was changed after the device was made",
            hint="which files it serves is not known: remove the device by hand",
        )
