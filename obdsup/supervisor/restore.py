"""After a boot of the host: devices that were marked are made again, the rest is reported.

One commit says which devices are to be restored and that the rows are of this boot from now on;
before it nothing was made, after it a supervisor that died goes on where it was. A device that can
not be made yet (a disk that is not mounted, a registry that does not answer) is tried again with
growing pauses; its writable layer is never touched.
"""

from __future__ import annotations

import contextlib
import logging
import random
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from obdsup.errors import ObdError
from obdsup.state import tables
from obdsup.state.database import Database
from obdsup.state.device import DeviceRow, WorkerRow
from obdsup.supervisor.backoff import Backoff
from obdsup.supervisor.device import Device
from obdsup.supervisor.device_machine import DeviceEvent, DeviceState
from obdsup.supervisor.event_log import EventLog
from obdsup.supervisor.settings import Settings

__all__ = ["begin_boot", "restore"]

_S = DeviceState
RESTORABLE = frozenset((_S.ONLINE.value, _S.SERVING.value, _S.RESTORING.value))
log = logging.getLogger(__name__)


def begin_boot(
    settings: Settings, database: Database, boot_id: str, void: Callable[[DeviceRow], None]
) -> None:
    """Makes the rows of an earlier boot those of this one; fine to call again after a crash.

    Args:
        settings: where things are.
        database: holds rows of another boot.
        boot_id: of the boot that runs.
        void: forgets a device that is not to be restored.

    Raises:
        StateError: state.db can not be written; nothing is lost.
    """
    devices: list[DeviceRow] = database.read(tables.load_devices)  # type: ignore[assignment]
    workers: list[WorkerRow] = database.read(tables.load_workers)  # type: ignore[assignment]
    kept = [row for row in devices if row.options.is_restored and row.phase in RESTORABLE]
    _clean(settings)
    for row in devices:
        if row not in kept:
            void(row)
    changes = [tables.put_meta({"boot_id": boot_id})]
    changes += [tables.delete_worker(worker.id) for worker in workers]
    changes += [tables.start_device_over(_as_of_this_boot(row)) for row in kept]

    def write(connection: sqlite3.Connection) -> None:
        for change in changes:
            change(connection)

    database.commit(write)


def restore(device: Device, events: EventLog, on_restored: Callable[[Device], None]) -> None:
    """Tries until the device is online or removed; in a thread of its own."""
    threading.Thread(
        target=_restore, args=(device, events, on_restored), daemon=True,
        name=f"restore-{device.record.name}",
    ).start()  # fmt: skip


def _restore(device: Device, events: EventLog, on_restored: Callable[[Device], None]) -> None:
    backoff = Backoff(free_failures=0, first_s=0.2)
    while device.state is _S.RESTORING:
        try:
            device.run("restore", DeviceEvent.RESUMED)
        except ObdError as error:
            wait_s = backoff.failed(time.monotonic(), random.random())
            log.warning(
                "restore.retried dev=%s retry_s=%.1f reason=%s", device.record.name, wait_s, error
            )
            time.sleep(wait_s)
        else:
            row = device.record.row
            events.emit("device.restored", row.name, block_device=row.block_device)
            on_restored(device)


def _as_of_this_boot(row: DeviceRow) -> DeviceRow:
    """The same device, files and release; of what was made for it nothing is left."""
    return replace(
        row, phase=_S.RESTORING.value, provider_ids={}, block_device="", generation=0,
        worker_id="", reason="", quarantine="",
    )  # fmt: skip


def _clean(settings: Settings) -> None:
    """What an earlier boot left where the run directory is no tmpfs: all of it is stale."""
    for path in settings.workers_dir.glob("*.sock"):
        path.unlink(missing_ok=True)
    for folder in (settings.run_dir / "devices").iterdir():
        shutil.rmtree(folder, ignore_errors=True)
    for path in (settings.run_dir / "rings").glob("*.sock"):
        path.unlink(missing_ok=True)
    for path in (settings.run_dir / "rings").glob("*.mnt"):
        with contextlib.suppress(OSError):
            path.rmdir()
