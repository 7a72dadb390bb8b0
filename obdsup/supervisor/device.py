"""One device: its life as a sequence of blocking steps, each in the thread of who asked."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

from obdsup.errors import ObdError, StateError
from obdsup.state.device import OperationRow
from obdsup.supervisor.device_machine import DeviceAction, DeviceEvent, DeviceState, step
from obdsup.supervisor.event_log import EventLog
from obdsup.supervisor.provider.base import DeviceGeometry, RingProvider
from obdsup.supervisor.record import Record
from obdsup.supervisor.release import Release
from obdsup.supervisor.service_machine import ServiceState
from obdsup.supervisor.serving import Serving
from obdsup.supervisor.settings import Settings
from obdsup.supervisor.upper_files import make_upper

__all__ = ["Device", "Progress"]

Progress = Callable[[str], None]
_E, _A, _S = DeviceEvent, DeviceAction, DeviceState

_SERVICE_PHASES = {
    ServiceState.RECOVERING: "recovering",
    ServiceState.RESETTING: "recovering",
    ServiceState.WAITING: "blocked",
    ServiceState.QUARANTINED: "quarantined",
    ServiceState.HANDING_OVER: "handing_over",
}


_REMOVABLE = (_S.ONLINE, _S.FAILED, _S.RESTORING)


class Device:
    """Carries out device_machine's actions; one operation at a time."""

    def __init__(
        self,
        settings: Settings,
        events: EventLog,
        record: Record,
        provider: RingProvider,
        serving: Serving,
    ) -> None:
        self._settings = settings
        self._events = events
        self.record = record
        self.provider = provider
        self.serving = serving
        self.state = DeviceState(record.row.phase)
        self._busy = threading.Lock()
        self._kind = ""
        self._started = 0.0
        self._progress: Progress = lambda text: None

    @property
    def phase(self) -> str:
        """What an operator reads: the life, or what the service is going through."""
        return _SERVICE_PHASES.get(self.serving.state, self.state.value)

    @property
    def is_gone(self) -> bool:
        return self.state is DeviceState.GONE

    def run(self, kind: str, event: DeviceEvent, progress: Progress | None = None) -> None:
        """Runs an operation to its end.

        Raises:
            StateError: another operation is under way, or not now.
            ObdError: the step that failed; the device is where its machine says.
        """
        if not self._busy.acquire(blocking=False):
            raise StateError(
                f"device {self.record.name}: a {self._kind} is under way", hint="wait for it"
            )
        try:
            self._kind, self._started = kind, time.time()
            self._progress = progress or (lambda text: None)
            self._run(event)
        finally:
            self._busy.release()

    def hand_over(self, release: Release | None = None) -> None:
        """Moves the device to a warm standby.

        Args:
            release: where the standby comes from, and what the device is pinned to from now on;
                None for the release it is pinned to.

        Raises:
            StateError: another operation is under way, or nobody serves it now.
            HandoffError: it did not happen; the device is served as before.
        """
        if not self._busy.acquire(blocking=False):
            raise StateError(
                f"device {self.record.name}: a {self._kind} is under way", hint="wait for it"
            )
        try:
            self._kind = "handover"
            self.serving.hand_over(release)
        finally:
            self._busy.release()

    def republish(self) -> None:
        """Finds the block device of one that is online, or makes it; nothing is taken back.

        Raises:
            StateError: another operation is under way.
            ObdError: nobody can serve it, or the provider can not.
        """
        if not self._busy.acquire(blocking=False):
            raise StateError(
                f"device {self.record.name}: a {self._kind} is under way", hint="wait for it"
            )
        try:
            self._kind = "publication"
            if self.state is _S.ONLINE:
                self._publish()
                self.record.later(reason="")
        finally:
            self._busy.release()

    def _run(self, event: DeviceEvent) -> None:
        if event is _E.REMOVE_ASKED and self.state not in _REMOVABLE:
            raise StateError(f"device {self.record.name} is {self.state.value}: not now")
        failure: ObdError | None = None
        following: DeviceEvent | None = event
        while following is not None:
            self.state, actions = step(self.state, following, time.monotonic())
            following = None
            for action in actions:
                if action in (_A.PERSIST, _A.SETTLE):
                    self._persist(action, failure)
                    continue
                try:
                    following = self._DO[action](self)
                except ObdError as error:
                    failure = failure or error
                    following = _E.STEP_FAILED
        if failure is not None:
            raise failure

    def _persist(self, action: DeviceAction, failure: ObdError | None) -> None:
        row = self.record.row
        operation = None
        if action is _A.PERSIST:
            operation = OperationRow(row.name, self._kind, self.state.value, self._started)
        self.record.commit(
            operation, phase=self.state.value, reason=str(failure) if failure else ""
        )
        fields: dict[str, object] = {"reason": str(failure)} if failure else {}
        self._events.emit(
            f"device.{self.state.value}", row.name,
            level=logging.ERROR if self.state is _S.FAILED else logging.INFO, **fields,
        )  # fmt: skip
        self._progress(self.state.value.replace("_", " "))

    # -- actions; each returns the event it ends with --------------------------------------------
    def _make_ring(self) -> DeviceEvent:
        row = self.record.row
        folder = self._settings.device_state_dir(row.name) / "upper"
        if row.upper_data is not None and Path(row.upper_data).parent == folder:
            if self.state is _S.RESTORING and not folder.exists():
                raise StateError(
                    f"the writable layer {folder} of device {row.name} is gone",
                    hint="bring it back, or remove the device",
                )
            make_upper(self._settings.image_command, folder, row.size_bytes)
        ids = self.provider.create(
            DeviceGeometry(row.name, row.uuid, row.size_bytes, not row.is_writable, row.image)
        )
        self.record.later(provider_ids=ids)  # on disk with the PERSIST of RING_MADE
        return _E.RING_MADE

    def _serve(self) -> DeviceEvent:
        self.serving.attach()
        return _E.SERVED

    def _publish(self) -> DeviceEvent:
        self.serving.attach()  # after a restart: wait until somebody serves
        path = self.provider.publish(self.record.row.provider_ids)
        self.record.later(block_device=path)
        return _E.PUBLISHED

    def _retract(self) -> DeviceEvent:
        """A worker must answer while the block device goes; never served means never published.

        That of a foreign device is taken away by who made it.
        """
        is_published = self.serving.state is not ServiceState.UNSERVED
        if is_published and not self.record.row.options.is_foreign:
            try:
                self.serving.attach()
            except ObdError as error:
                self._retract_unserved(error)
            else:
                self.provider.retract(self.record.row.provider_ids)
        return _E.RETRACTED

    def _retract_unserved(self, reason: ObdError) -> None:
        """No worker can serve it: what its block device asks while it goes is refused."""
        self._progress(f"no worker can serve it ({reason}): its block device goes with errors")
        self.serving.drain()  # nothing is tried any more
        try:
            with self.serving.refusing():
                self.provider.retract(self.record.row.provider_ids)
        except ObdError:
            self.serving.orphaned("its removal failed")
            raise

    def _drain(self) -> DeviceEvent:
        self.serving.drain()
        return _E.DRAINED

    def _destroy(self) -> DeviceEvent:
        self.serving.let_go_of_ring()
        if self.record.row.provider_ids:
            self.provider.destroy(self.record.row.provider_ids)
        return _E.DESTROYED

    def _delete(self) -> None:
        """The row first: files without a row are debris, removed before the next create."""
        self.record.delete()
        self._events.emit("device.gone", self.record.name)
        self.serving.close()
        self.serving.journal.remove()
        shutil.rmtree(self._settings.device_state_dir(self.record.name), ignore_errors=True)

    _DO: dict[DeviceAction, Callable[[Device], DeviceEvent | None]] = {
        _A.MAKE_RING: _make_ring,
        _A.SERVE: _serve,
        _A.PUBLISH: _publish,
        _A.RETRACT: _retract,
        _A.DRAIN: _drain,
        _A.DESTROY: _destroy,
        _A.DELETE: _delete,
    }
