"""What a rollout does to devices and workers: each function is one kind of action of its machine.

Every one may be done again after a crash in the middle. They run in the rollout's thread and look
for an abort at least every TICK_S.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from obdsup.errors import ConfigError, DeviceNotFound, ObdError, StateError
from obdsup.state import tables
from obdsup.state.database import Database
from obdsup.state.device import RolloutRow
from obdsup.supervisor.death import Cause, Death
from obdsup.supervisor.device import Device
from obdsup.supervisor.device_machine import DeviceState
from obdsup.supervisor.devices import Devices
from obdsup.supervisor.fleet import Fleet
from obdsup.supervisor.release import Release, find_release, full_path, short_path
from obdsup.supervisor.ring_view import read_head
from obdsup.supervisor.rollout_watch import Meter, Summary, judge
from obdsup.supervisor.service_machine import ServiceState
from obdsup.supervisor.settings import Settings
from obdsup.supervisor.worker import Worker
from obdsup.supervisor.worker_machine import WorkerState

__all__ = ["Mark", "RolloutGround"]

TICK_S = 0.1
BASELINE_S = 2.0  # of watching how devices do before any moves; less when the watch is shorter
START_DEATHS_MAX = 3  # of workers of the new release that never got ready
STANDBYS_MAX = 4  # of the new release at once
MOVE_PATIENCE_S = 60.0  # for a device with another operation under way, and for each going back
MOVE_TRIES = 2
RETRY_S = 0.2
META_DEFAULT, META_MARKS = "default_release", "rollout_marks"
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Mark:
    """One device before it moved: where from, and how it did."""

    origin: str  # full path of its release
    takeovers: int
    before: Summary


class RolloutGround:
    """Devices and workers as a rollout sees them.

    Args:
        is_aborted: polled; actions that take long return early when it says so.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        fleet: Fleet,
        devices: Devices,
        is_aborted: Callable[[], bool],
    ) -> None:
        self._settings = settings
        self._database = database
        self._fleet = fleet
        self._devices = devices
        self._is_aborted = is_aborted
        self._marks: dict[str, Mark] = {}
        self._meters: dict[str, Meter] = {}
        self._target: Release | None = None
        self._deaths: deque[str] = deque(maxlen=1)  # the last of a worker of it that served
        self._failed_starts: Counter[str] = Counter()  # by cause, of the target
        fleet.listeners.append(self._on_death)

    # -- what is kept --------------------------------------------------------------------------
    def load(self) -> RolloutRow | None:
        """The last rollout; the marks of its devices are known from now on."""
        row: RolloutRow | None = self._database.read(tables.load_rollout)  # type: ignore[assignment]
        meta: dict[str, str] = self._database.read(tables.meta)  # type: ignore[assignment]
        self._devices.default_release = short_path(meta.get(META_DEFAULT, ""))
        try:
            marks = json.loads(meta.get(META_MARKS, "{}"))
            self._marks = {
                name: Mark(mark["origin"], mark["takeovers"], Summary(**mark["before"]))
                for name, mark in marks.items()
            }
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            log.warning("rollout.marks are not readable: %s", error)
        return row

    def persist(self, row: RolloutRow) -> None:
        """On disk, with the marks, when it returns.

        Raises:
            StateError: it could not be written.
        """
        marks = json.dumps({name: asdict(mark) for name, mark in self._marks.items()})

        def write(connection: object) -> None:
            tables.put_rollout(row)(connection)  # type: ignore[arg-type]
            tables.put_meta({META_MARKS: marks})(connection)  # type: ignore[arg-type]

        self._database.commit(write)

    # -- actions, in order; "" or what is wrong --------------------------------------------------
    def begin(self) -> None:
        """A new rollout: nothing is known of any device."""
        self._marks, self._meters = {}, {}
        self._deaths.clear()
        self._failed_starts = Counter()

    def aim(self, row: RolloutRow) -> str:
        """Standbys of the new release are wanted; before anything else, also after a restart."""
        try:
            target = self._target = find_release(Path(row.target))
        except ConfigError as error:
            return str(error)
        most = int(max(row.options["canary"], row.options["batch"]))
        count = min(most, len(self._devices.all()), STANDBYS_MAX)
        self._fleet.want_standbys(target, max(count, 1))
        return ""

    def prepare(self, row: RolloutRow) -> str:
        """Standbys of the new release are warm and can open the images; devices are measured."""
        assert self._target is not None
        target, begun_s = self._target, time.monotonic()
        baseline_s = min(BASELINE_S, row.options["watch_s"])
        while not self._is_aborted():
            self._sample()
            waited_s = time.monotonic() - begun_s
            problem = self._start_problem()
            if problem:
                return problem
            if waited_s > self._settings.start_timeout_s:
                return f"no worker of it got ready in {self._settings.start_timeout_s} s"
            if waited_s >= baseline_s and self._fleet.standbys_ready(target):
                return self._try_images(target)
            time.sleep(TICK_S)
        return ""

    def next_group(self, row: RolloutRow, count: int) -> tuple[str, ...]:
        """Up to ``count`` devices that move next; notes how they do now."""
        group = self.candidates(row)[:count]
        for name in group:
            device = self._devices.get(name)
            meter = self._meters.get(name)
            self._marks[name] = Mark(
                full_path(device.record.row.release), device.record.row.takeovers,
                meter.summary if meter else Summary(),
            )  # fmt: skip
            self._meters.pop(name, None)
        return tuple(group)

    def candidates(self, row: RolloutRow) -> list[str]:
        """Devices that are served and were not tried yet, by name."""
        return [
            device.record.name
            for device in self._devices.all()
            if device.record.name not in row.moved
            and self._pin(device) != row.target
            and device.state is DeviceState.ONLINE
            and device.serving.state is ServiceState.SERVED
        ]

    def move(self, row: RolloutRow) -> str:
        """Hands every device of ``row.moved`` over that is not there yet."""
        assert self._target is not None
        for name in row.moved:
            if self._is_aborted():
                return ""
            problem = self._move_one(name, row.target) or "".join(self._deaths)
            if problem:
                return problem
        return ""

    def watch(self, row: RolloutRow) -> str:
        """Compares what has moved with its marks, for as long as was asked."""
        until_s = time.monotonic() + row.options["watch_s"]
        while not self._is_aborted():
            self._sample()
            problem = self._look(row)
            if problem:
                return problem
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                return ""
            time.sleep(min(TICK_S, left_s))
        return ""

    def finish(self, row: RolloutRow) -> str:
        """New devices, and those nobody serves now, come from the new release."""
        assert self._target is not None
        try:
            self._database.commit(tables.put_meta({META_DEFAULT: row.target}))
        except StateError as error:
            return str(error)
        self._devices.default_release = self._target.path
        for device in self._devices.all():
            if self._pin(device) != row.target:
                problem = self._move_one(device.record.name, row.target)
                if problem or self._pin(device) != row.target:
                    log.warning("rollout.left dev=%s reason=%s", device.record.name, problem)
                    device.record.later(release=self._target.path)
        self.keep_default_standbys()
        return ""

    def keep_default_standbys(self) -> None:
        """Standbys of the release of new devices are kept; of the target only if it is that.

        Raises:
            ConfigError: that release is gone.
        """
        default = self._fleet.release_of(self._devices.default_release)
        if self._target is not None and self._target != default:
            self._fleet.want_standbys(self._target, 0)
        if default.path:
            self._fleet.want_standbys(default, self._settings.standbys)

    def move_back(self, row: RolloutRow) -> str:
        """Hands every device of ``row.moved`` back to the release it came from.

        First the pins, all of them: whoever dies now is taken over by the old release.
        """
        back: dict[str, Release] = {}
        problems = []
        for name in row.moved:
            mark = self._marks.get(name)
            try:
                release = find_release(Path(mark.origin if mark else row.origin))
                device = self._devices.get(name)
            except DeviceNotFound:
                continue
            except ConfigError as error:
                problems.append(f"device {name}: {error}")
                continue
            back[name] = release
            if self._pin(device) == row.target:
                device.record.later(release=release.path)
        for name, release in back.items():
            problem = self._move_one_back(name, release)
            if problem:
                problems.append(problem)
        try:
            self.keep_default_standbys()
        except ConfigError as error:
            log.warning("rollout.standbys reason=%s", error)
        return "; ".join(problems)

    # -- one device ------------------------------------------------------------------------------
    def _pin(self, device: Device) -> str:
        return full_path(device.record.row.release)

    def _move_one(self, name: str, target: str) -> str:
        """ "" also when the device went, or nobody serves it: finish pins it."""
        failures = 0
        deadline_s = time.monotonic() + MOVE_PATIENCE_S
        while True:
            try:
                device = self._devices.get(name)
                if self._pin(device) == target or device.state is not DeviceState.ONLINE:
                    return ""
                if device.serving.state not in (ServiceState.SERVED, ServiceState.HANDING_OVER):
                    return ""
                device.hand_over(self._target)
            except DeviceNotFound:
                return ""
            except StateError as error:  # another operation is under way
                if time.monotonic() > deadline_s:
                    return str(error)
            except ObdError as error:
                failures += 1
                if failures >= MOVE_TRIES:
                    return str(error)
            else:
                return ""
            if self._is_aborted():
                return ""
            time.sleep(RETRY_S)

    def _move_one_back(self, name: str, release: Release) -> str:
        """Until a worker of the old release serves it; the pin makes each take-over one as well."""
        deadline_s = time.monotonic() + MOVE_PATIENCE_S
        why = "nobody serves it"
        while time.monotonic() < deadline_s:
            try:
                device = self._devices.get(name)
                worker = device.serving.worker
                state = device.serving.state
                if device.state is not DeviceState.ONLINE:
                    return ""
                if state is ServiceState.SERVED and worker is not None:
                    if worker.release_path == release.path:
                        return ""
                    device.hand_over(release)
                elif state in (ServiceState.WAITING, ServiceState.QUARANTINED):
                    device.serving.resume()  # at once: its deaths were the other release's
            except DeviceNotFound:
                return ""
            except ObdError as error:
                why = str(error)
            time.sleep(TICK_S)
        return f"device {name} did not go back: {why}"

    def _try_images(self, target: Release) -> str:
        """A standby of the new release opens each image that is served, and finds the same size."""
        worker = next(
            (w for w in self._fleet.workers()
             if w.release_path == target.path and w.state is WorkerState.STANDBY),
            None,
        )  # fmt: skip
        for device in self._devices.all() if worker is not None else []:
            row = device.record.row
            if device.serving.state is not ServiceState.SERVED or self._is_aborted():
                continue
            assert worker is not None
            try:
                answer = worker.link.call_aside(
                    "prewarm", self._settings.serve_timeout_s, device=row.name,
                    image=row.image_message(),
                )  # fmt: skip
            except ObdError as error:
                return f"it can not open the image of device {row.name}: {error}"
            size = answer.body.get("size_bytes")
            if size != row.size_bytes:
                return f"device {row.name} has {row.size_bytes} bytes, it finds {size}"
        return ""

    # -- looking ---------------------------------------------------------------------------------
    def _sample(self) -> None:
        now = time.monotonic()
        for device in self._devices.all():
            serving = device.serving
            if serving.state is ServiceState.SERVED:
                counters = serving.journal.counters()
                has_work = counters.in_flight > 0
                if not has_work and serving.ring is not None:
                    head = read_head(serving.ring)
                    has_work = head is not None and head != serving.journal.next_position()[1]
                meter = self._meters.setdefault(device.record.name, Meter())
                meter.add(now, counters, has_work=has_work)

    def _look(self, row: RolloutRow) -> str:
        problem = "".join(self._deaths) or self._start_problem()
        if problem:
            return problem
        for name in row.moved:
            mark, meter = self._marks.get(name), self._meters.get(name)
            try:
                device = self._devices.get(name)
            except DeviceNotFound:
                continue
            if mark is None or self._pin(device) != row.target:
                continue
            if device.record.row.takeovers > mark.takeovers:
                return f"device {name}: its worker died"
            problem = judge(mark.before, meter.summary) if meter else ""
            if problem:
                return f"device {name}: {problem}"
        return ""

    def _start_problem(self) -> str:
        if self._failed_starts.total() < START_DEATHS_MAX:
            return ""
        cause = self._failed_starts.most_common(1)[0][0]
        return f"its workers do not start: {cause} (logs: {self._settings.log_dir})"

    def _on_death(self, worker: Worker, death: Death) -> None:
        """Called by the fleet: of a worker that served, unless an operator stopped it."""
        target = self._target
        if target is None or worker.release_path != target.path:
            return
        if death.cause is Cause.EXITED:
            return
        if worker.device:
            self._deaths.append(f"device {worker.device}: worker {worker.id} {death}")
        elif death.cause is not Cause.UNKNOWN:  # adopted: it may have been told to stop
            self._failed_starts[str(death)] += 1
