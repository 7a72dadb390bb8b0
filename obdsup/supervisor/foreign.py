"""The drop-in for overlaybd-tcmu: devices that others make in configfs, taken over and handed back.

``adopt`` serves what a stopped or killed overlaybd-tcmu left. Its ring has no journal, so it is
reset while it is held open: commands in flight are sent again, and who waits sees one slow I/O.
``release`` lets the last commands end, completes the upper's files, closes the ring and forgets the
device; it stays in configfs for overlaybd-tcmu, which resets rings when it starts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from obdsup.errors import ConfigError, DeviceNotFound, ObdError
from obdsup.supervisor.control_server import Operation
from obdsup.supervisor.devices import Devices
from obdsup.supervisor.event_log import EventLog
from obdsup.supervisor.foreign_devices import ForeignDevices
from obdsup.supervisor.foreign_listener import ForeignListener
from obdsup.supervisor.provider import Providers
from obdsup.supervisor.provider.foreign_rings import (
    FOREIGN_PROVIDER,
    ForeignRing,
    foreign_rings,
    ring_holders,
)
from obdsup.supervisor.provider.kernel_files import KernelRoots
from obdsup.supervisor.provider.tcmu_foreign import ForeignTcmuProvider
from obdsup.supervisor.serving import ServingContext

__all__ = ["Foreign"]

AT_ONCE = 16
Progress = Callable[[str], None]
log = logging.getLogger(__name__)


class Foreign:
    """Made once; ``prepare`` before anything else is called."""

    def __init__(self, devices: Devices, providers: Providers, roots: KernelRoots | None = None):
        self._all = devices
        self._providers = providers
        self._roots = roots or KernelRoots()
        self._events: EventLog
        self._devices: ForeignDevices
        self._listener: ForeignListener

    def prepare(self, context: ServingContext) -> None:
        """What is known only once the fleet is there."""
        self._events = context.events
        provider = self._providers.get(FOREIGN_PROVIDER)
        assert isinstance(provider, ForeignTcmuProvider)
        self._devices = ForeignDevices(context, self._all, provider)
        self._listener = ForeignListener(self._devices, provider, context.events, self._roots)

    def listen(self) -> None:
        """Serves devices made in configfs from now on, unless overlaybd-tcmu does."""
        try:
            self._providers.prepare_host()
            self._listener.start()
        except ObdError as error:
            self._events.emit("operation.refused", level=logging.WARNING, reason=str(error))

    def stop(self) -> None:
        """At the end of the supervisor; workers serve on."""
        self._listener.stop()

    def operations(self) -> dict[str, Operation]:
        return {"adopt": self._adopt, "release": self._release}

    # -- adopt -------------------------------------------------------------------------------------
    def _adopt(self, request: dict[str, Any], progress: Progress) -> object:
        is_dry = _flag(request, "dry_run")
        rings = foreign_rings(self._roots)
        wanted = self._wanted(request, [ring for ring in rings if not self._devices.find(ring)])
        if is_dry:
            return [self._report(ring, "would adopt", self._refusal(ring)) for ring in wanted]
        self._providers.prepare_host()
        self._listener.start()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(lambda ring: self._adopt_one(ring, progress), wanted))

    def _adopt_one(self, ring: ForeignRing, progress: Progress) -> dict[str, object]:
        refusal = self._refusal(ring)
        if not refusal:
            progress(f"{ring.device}: opening its image")
            try:
                device = self._devices.serve(ring, lambda text: None)
            except ObdError as error:
                refusal = str(error)
            else:
                self._listener.left.discard(ring)
                progress(f"{ring.device}: served")
                row = device.record.row
                return self._report(ring, "adopted", "", row.name, row.block_device)
        progress(f"{ring.device}: refused: {refusal}")
        return self._report(ring, "adopted", refusal)

    def _refusal(self, ring: ForeignRing) -> str:
        """Why it can not be had now, as far as can be seen without opening it."""
        sysfs = foreign_rings(self._roots).get(ring)
        holders = ring_holders(self._roots, sysfs) if sysfs is not None else []
        if holders:
            pids = ", ".join(map(str, holders))
            return f"process {pids} has its ring open (stop it first)"
        return "" if sysfs is not None else "it was removed meanwhile"

    def _report(
        self, ring: ForeignRing, done: str, refusal: str, name: str = "", node: str = ""
    ) -> dict[str, object]:
        return {
            "device": ring.device,
            "hba": ring.hba,
            "image": ring.path,
            "name": name,
            "block_device": node or self._disks().get((ring.hba, ring.device), ""),
            "outcome": "refused" if refusal else done,
            "reason": refusal,
        }

    def _disks(self) -> dict[tuple[int, str], str]:
        provider = self._providers.get(FOREIGN_PROVIDER)
        assert isinstance(provider, ForeignTcmuProvider)
        return provider.disks()

    def _wanted(self, request: dict[str, Any], rings: Iterable[ForeignRing]) -> list[ForeignRing]:
        """Those that are asked for by name, or all.

        Raises:
            DeviceNotFound: one of the names is none of these.
        """
        found = sorted(rings, key=lambda ring: (ring.device, ring.hba))
        names = _names(request)
        if names is None:
            return found
        missing = sorted(names - {ring.device for ring in found})
        if missing:
            raise DeviceNotFound(
                f"no device {missing[0]!r} of overlaybd waits to be taken over",
                hint="see `obdsup adopt --all --dry-run`",
            )
        return [ring for ring in found if ring.device in names]

    # -- release -----------------------------------------------------------------------------------
    def _release(self, request: dict[str, Any], progress: Progress) -> object:
        names = _names(request)
        served = self._devices.all()
        known = {device.record.name: ring for ring, device in served}
        for name in names or ():
            if name not in known:
                raise ConfigError(
                    f"device {self._all.get(name).record.name} was made by obdsup: nobody else"
                    " could serve it", hint="obdsup device remove takes it away",
                )  # fmt: skip
        wanted = {name: ring for name, ring in known.items() if names is None or name in names}
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(
                pool.map(lambda name: self._release_one(name, wanted[name], progress), wanted)
            )

    def _release_one(self, name: str, ring: ForeignRing, progress: Progress) -> dict[str, object]:
        self._listener.left.add(ring)
        try:
            self._devices.let_go(ring)
        except ObdError as error:
            self._listener.left.discard(ring)
            progress(f"{name}: not released: {error}")
            return self._report(ring, "released", str(error), name)
        progress(f"{name}: released")
        return self._report(ring, "released", "", name)


def _flag(request: dict[str, Any], key: str) -> bool:
    value = request.get(key, False)
    if not isinstance(value, bool):
        raise ConfigError(f"{key} {value!r} is neither true nor false")
    return value


def _names(request: dict[str, Any]) -> set[str] | None:
    """The names asked for; None: all.

    Raises:
        ConfigError: neither, or both.
    """
    names = request.get("names")
    if _flag(request, "all"):
        if names:
            raise ConfigError("both all and names are given", hint="give one of them")
        return None
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise ConfigError(f"names {names!r} is not a list of names", hint="or ask for all")
    return set(names)
