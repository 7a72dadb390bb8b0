"""The supervisor as a whole: puts the parts together, in the order a quick recovery needs."""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import obdsup
from obdsup.errors import AlreadyServed, ConfigError, ObdError
from obdsup.state import process as processes
from obdsup.state import tables
from obdsup.supervisor.adoption import Adoption
from obdsup.supervisor.control_server import ControlServer, Operation
from obdsup.supervisor.device_options import parse_options
from obdsup.supervisor.device_report import device_report
from obdsup.supervisor.devices import Devices
from obdsup.supervisor.embedding import EmbeddedSupervisor, make_options
from obdsup.supervisor.event_feed import EventFeed
from obdsup.supervisor.event_listeners import EventListeners
from obdsup.supervisor.event_log import EventLog
from obdsup.supervisor.fd_limit import raise_fd_limit
from obdsup.supervisor.fleet import Fleet, FleetHooks
from obdsup.supervisor.foreign import Foreign
from obdsup.supervisor.hang_watch import HangWatch
from obdsup.supervisor.health import Health
from obdsup.supervisor.held_fds import HeldFds
from obdsup.supervisor.metrics_server import MetricsServer
from obdsup.supervisor.overview import Overview
from obdsup.supervisor.provider import ProviderChoice, Providers
from obdsup.supervisor.rebuild import open_database, report_rebuilds, state_report
from obdsup.supervisor.reclaim import Reclaim
from obdsup.supervisor.reexec import CHANGING, Reexec, ReexecParts, reap_the_dead
from obdsup.supervisor.rollout_operations import RolloutOperations
from obdsup.supervisor.serving import ServingContext
from obdsup.supervisor.settings import Settings
from obdsup.supervisor.spreading import Spreading
from obdsup.supervisor.systemd import Systemd
from obdsup.supervisor.tally import Tally

__all__ = ["Service", "take_lock"]

log = logging.getLogger(__name__)


def take_lock(settings: Settings, held: HeldFds) -> int:
    """The lock of the run directory; held until the process ends, whatever ends it. An fd kept
    through a re-exec has it already.

    Raises:
        AlreadyServed: another supervisor holds it; nothing was touched.
    """
    path = settings.run_dir / "supervisor.lock"
    kept = held.take("lock")
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if kept is not None and os.path.sameopenfile(kept, fd):
        os.close(fd)
        fd = kept
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(fd, 32).decode(errors="replace").strip()
        os.close(fd)
        raise AlreadyServed(
            f"another supervisor (pid {holder or 'unknown'}) serves {settings.run_dir}",
            hint="stop it, or give this one its own --run-dir and --state-dir",
        ) from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    held.keep("lock", fd)
    return fd


class Service:
    """One supervisor. ``run`` returns when it was told to stop; workers serve on.

    Args:
        settings: all of them.
        providers: None for the real ones.

    Raises:
        AlreadyServed: there is another one. StateError: state.db can not be used.
    """

    def __init__(self, settings: Settings, providers: Providers | None = None) -> None:
        self._held = HeldFds()
        if self._held.is_reexec:
            reap_the_dead()
        raise_fd_limit()
        settings.make_directories()
        self._settings = settings
        self._lock_fd = take_lock(settings, self._held)
        self._started = time.time()
        self._boot_id = processes.boot_id()
        self._database = open_database(settings, self._boot_id)
        self._events = EventLog(self._database)
        report_rebuilds(self._database, self._events)
        self._feed = EventFeed(self._database, self._events)
        self._providers = providers or Providers(settings.run_dir / "rings")
        self._devices = Devices(self._database, self._providers)
        options = make_options(settings.supervisorctl_socket, obdsup.__version__)
        self._loop = EmbeddedSupervisor(options, self._on_tick)
        self._loop.stop_limit_s = settings.stop_timeout_s
        self._listeners = EventListeners(
            settings.event_listeners, self._loop, self._events, settings.log_dir
        )
        hooks = FleetHooks(
            self._devices.images, self._devices.on_worker_exited, self._devices.lodger,
            self._devices.pinned_releases,
        )  # fmt: skip
        self._fleet = Fleet(settings, self._database, self._events, self._loop, hooks)
        self._context = ServingContext(
            settings, self._events, self._fleet, self._boot_id, self._held
        )
        self._rollouts = RolloutOperations(
            settings, self._database, self._events, self._fleet, self._devices
        )
        self._hangs = HangWatch(settings.hang_limit_s, self._events, self._fleet, self._devices)
        tally = Tally(self._events, self._fleet)
        self._overview = Overview(
            settings, self._database, self._fleet, self._devices, self._feed, tally
        )
        self._foreign = Foreign(self._devices, self._providers)
        self._metrics = MetricsServer(settings.metrics, settings.run_dir, self._overview)
        self._choice = ProviderChoice(settings.provider, "not yet chosen")
        self._health = Health(self._database, self._hangs.health)
        self._systemd = Systemd()
        self._is_ready = threading.Event()
        self._reexec = self._make_reexec()
        self._loop.operations = self._operations()
        self._control = ControlServer(
            settings.control_socket, self._loop.operations, self._held.take("control")
        )
        self._held.keep("control", self._control.fd)

    def run(self) -> int:
        """Recovers, serves requests, returns the exit code."""
        is_same_boot = self._database.is_same_boot
        self._devices.start(self._context, self._settings.provider)
        self._foreign.prepare(self._context)
        self._loop.prepare()
        self._listeners.start()
        threading.Thread(
            target=self._start, args=(is_same_boot,), name="start", daemon=True
        ).start()
        self._events.emit(
            "supervisor.started", pid=os.getpid(), release=obdsup.__version__, boot=self._boot_id
        )
        try:
            self._loop.runforever()
        finally:
            self._systemd.stopping()
            self._foreign.stop()
            self._listeners.close()
            self._metrics.close()
            self._control.close()
            self._events.emit("supervisor.stopped", pid=os.getpid())
            self._database.close()
        return 0

    def _start(self, is_same_boot: bool) -> None:
        """Recovery first; then what may be slow: the probe of providers, requests, readiness."""
        try:
            reclaim = Reclaim(self._context, self._database, self._devices, self._providers)
            Adoption(
                self._settings, self._database, self._events, self._loop, self._fleet,
                self._devices, self._boot_id, reclaim,
            ).run(is_same_boot=is_same_boot)  # fmt: skip
            self._held.drop_rest()  # of devices that are no more
            self._database.later(
                tables.put_meta({"boot_id": self._boot_id, "release": obdsup.__version__})
            )
            self._rollouts.resume()
            self._fleet.replenish_soon()
            reclaim.start()
            self._hangs.start()
            Spreading(self._events, self._fleet, self._devices).start()
            self._choose_provider()
            if self._choice.name == "tcmu":
                self._foreign.listen()
        except Exception:
            log.exception("supervisor.failed")
        self._control.start()
        self._metrics.start()
        self._is_ready.set()
        self._systemd.ready(f"provider {self._choice.name}: {self._choice.reason}")

    def _make_reexec(self) -> Reexec:
        parts = ReexecParts(
            self._loop, lambda: self._control, self._held, self._events, self._unsettled,
            self._database.flush, self._systemd.reloading, self._listeners.end_before_exec,
        )  # fmt: skip
        reexec = Reexec(parts)
        self._loop.on_hangup = reexec.on_hangup
        return reexec

    def _unsettled(self) -> list[str]:
        return [
            f"device {device.record.name} {device.serving.state.value}"
            for device in self._devices.all()
            if device.serving.state in CHANGING
        ]

    def _choose_provider(self) -> None:
        try:
            self._choice = self._providers.choose(self._settings.provider)
        except ObdError as error:
            self._choice = ProviderChoice("none", str(error))
        self._devices.default_provider = self._choice.name
        self._events.emit("provider.chosen", provider=self._choice.name, reason=self._choice.reason)

    def _on_tick(self, now: float) -> None:
        if self._is_ready.is_set():
            self._devices.checkpoint()
            self._fleet.replenish_soon()
            self._fleet.trim()
        self._systemd.alive(self._health.problem() if self._is_ready.is_set() else "")

    # -- operations, each in the thread of its connection ------------------------------------------
    def _operations(self) -> dict[str, Operation]:
        return {
            "status": self._status,
            "device.create": self._create,
            "device.list": lambda request, progress: [
                device_report(device) for device in self._devices.all()
            ],
            "device.show": lambda request, progress: device_report(
                self._devices.get(request.get("name"))
            ),
            "device.remove": self._remove,
            "device.handover": self._hand_over,
            "device.resume": self._resume,
            **self._feed.operations(),
            **self._foreign.operations(),
            **self._overview.operations(),
            **self._hangs.operations(),
            **self._rollouts.operations(),
            **self._reexec.operations(),
            "shutdown": self._shutdown,
        }

    def _status(self, request: dict[str, Any], progress: Callable[[str], None]) -> object:
        devices = self._devices.all()
        return {
            "pid": os.getpid(),
            "release": obdsup.__version__,
            "started": self._started,
            "run_dir": str(self._settings.run_dir),
            "state_dir": str(self._settings.state_dir),
            "provider": self._choice.name,
            "provider_reason": self._choice.reason,
            "standbys_wanted": self._settings.standbys,
            "standbys_ready": self._fleet.standbys_ready(),
            "workers": [
                {
                    "id": worker.id,
                    "pid": worker.identity.pid,
                    "state": worker.state.value,
                    "device": worker.device,
                    "devices": sorted(worker.devices.copy()),
                    "release": worker.release,
                }
                for worker in self._fleet.workers()
            ],
            "devices": dict(Counter(device.phase for device in devices)),
            "takeovers": sum(device.record.row.takeovers for device in devices),
            **state_report(self._database),
            **self._overview.for_status(),
        }

    def _create(self, request: dict[str, Any], progress: Callable[[str], None]) -> object:
        is_writable = request.get("writable", False)
        if not isinstance(is_writable, bool):
            raise ConfigError(f"writable {is_writable!r} is neither true nor false")
        if request.get("devices_per_worker") is None:
            request = {**request, "devices_per_worker": self._settings.devices_per_worker}
        device = self._devices.create(
            request.get("name"),
            request.get("image"),
            is_writable=is_writable,
            size_bytes=request.get("size_bytes"),
            provider=request.get("provider"),
            progress=progress,
            options=parse_options(request),
        )
        return device_report(device)

    def _remove(self, request: dict[str, Any], progress: Callable[[str], None]) -> object:
        self._devices.remove(request.get("name"), progress)
        return {"removed": request.get("name")}

    def _resume(self, request: dict[str, Any], progress: Callable[[str], None]) -> object:
        device = self._devices.get(request.get("name"))
        device.serving.resume()
        return device_report(device)

    def _hand_over(self, request: dict[str, Any], progress: Callable[[str], None]) -> object:
        device = self._devices.get(request.get("name"))
        path = request.get("release")
        if path is not None and not isinstance(path, str):
            raise ConfigError(f"release {path!r} is not a path")
        device.hand_over(None if path is None else self._fleet.release_of(path))
        return device_report(device)

    def _shutdown(self, request: dict[str, Any], progress: Callable[[str], None]) -> object:
        self._loop.stop()
        return {"workers_left_running": len(self._fleet.workers())}
