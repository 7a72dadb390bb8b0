"""The course of a run: build up, load, kill, check, take down.

Whatever was put up is taken down in reverse order, also after a failure or Ctrl-C; a step of the
taking down that fails does not keep the others from being done, and fails the run.
"""

from __future__ import annotations

import contextlib
import os
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from chaos.demo import report
from chaos.demo.schedule import PlannedKill, Rhythm, plan
from chaos.rig.container import Container
from chaos.rig.counters import DeviceJournal
from chaos.rig.image import LayeredImage
from chaos.rig.kernel_log import KernelLog, offending
from chaos.rig.kills import Killer, LandedKill
from chaos.rig.latency import stall_ns
from chaos.rig.mount import Mount
from chaos.rig.node import Node, wait_until
from chaos.rig.own_folders import OwnFolders
from chaos.rig.problem import RigError, say
from chaos.workloads.redis import client
from chaos.workloads.redis.crowd import Crowd
from chaos.workloads.redis.ledger import Ledger

__all__ = ["Options", "run_course"]

DEVICE = "demo"
TELL_TIMEOUT_S = 2.0
SOCKET = "run/redis.sock"
REDIS = ["/usr/bin/redis-server", "/etc/redis.conf"]


@dataclass(frozen=True, slots=True)
class Options:
    """What a run is asked to do. ``patience_s`` bounds each single step of it,
    ``pause_s`` lies between two operations of each client."""

    seconds: float
    seed: int
    provider: str
    rhythm: Rhythm
    patience_s: float
    pause_s: float
    log_folder: Path


def run_course(options: Options, image: LayeredImage, outcome: report.Outcome) -> None:
    """Carries out one run and notes in ``outcome`` what happened, as far as it came.

    Raises:
        RigError: a step could not be carried out; everything is taken down all the same.
    """
    outcome.seed = options.seed
    outcome.kernel = os.uname().release
    with ExitStack() as stack:
        folders = OwnFolders.make("demo")
        run_dir = folders.run
        node = Node(run_dir, folders.state, options.provider, options.patience_s)
        stack.callback(node.clean_up)
        stack.callback(folders.keep_logs, options.log_folder)
        row = _create_device(node, stack, image, outcome)
        mount = Mount(str(row["block_device"]), run_dir / "rootfs")
        stack.callback(mount.unmount)
        journal = DeviceJournal(run_dir, DEVICE)
        _Course(options, image, outcome, node, journal, mount, stack).run()


def _create_device(
    node: Node, stack: ExitStack, image: LayeredImage, outcome: report.Outcome
) -> dict[str, object]:
    say("supervisor: start")
    node.start_supervisor()
    wait_until(node.is_answering, node.patience_s, "an answer of the supervisor")
    say("device: create")
    stack.callback(node.remove_device, DEVICE)
    node.obdsup("device", "create", DEVICE, "--image", str(image.config), "--writable")
    row: dict[str, object] = node.obdsup("device", "show", DEVICE)
    outcome.provider = str(row["provider"])
    say(f"device: {row['block_device']}, provider {outcome.provider}")
    return row


class _Course:
    """The part between the device's creation and its removal."""

    def __init__(
        self,
        options: Options,
        image: LayeredImage,
        outcome: report.Outcome,
        node: Node,
        journal: DeviceJournal,
        mount: Mount,
        stack: ExitStack,
    ) -> None:
        self._options = options
        self._image = image
        self._outcome = outcome
        self._node = node
        self._journal = journal
        self._mount = mount
        self._ledger = Ledger(f"{options.seed}/{os.getpid()}/{time.time_ns()}")
        folder = node.run_dir / "container"
        name = f"obdsup-demo-{os.getpid()}"
        self._container = Container(name, folder, mount.folder, REDIS)
        stack.callback(self._container.stop)
        self._stack = stack

    def run(self) -> None:
        self._mount.mount()
        self._start_redis()
        log = KernelLog()
        try:
            self._load_and_kill()
        finally:
            self._note_kernel_log(log)
        self._outcome.commands = self._journal.read().completed
        say("check: stop the container, unmount, e2fsck, mount, start it again, read back")
        self._stop_and_check_disk()
        self._mount.mount()
        self._start_redis()
        log.mark()
        self._read_back()
        self._note_kernel_log(log)
        self._stop_and_check_disk()

    @property
    def _socket(self) -> Path:
        return self._mount.folder / SOCKET

    def _start_redis(self) -> None:
        say("container: start redis")
        self._container.start()
        try:
            client.wait_answering(self._socket, self._container.check, self._options.patience_s)
        except TimeoutError as error:
            raise RigError(f"{error}; {self._container.log_end()}") from error

    def _load_and_kill(self) -> None:
        probe = self._mount.folder / self._image.probe_inside
        workload = Crowd(
            self._socket,
            probe,
            self._image.probe_copy,
            self._options.seed,
            self._ledger,
            self._options.patience_s,
            self._options.pause_s,
        )
        self._stack.callback(workload.stop)
        kills = plan(self._options.seconds, self._options.seed, self._options.rhythm)
        self._outcome.planned = {kill.kind for kill in kills}
        say(f"load: {len(kills)} kills planned in {self._options.seconds:g} s")
        workload.start()
        started = time.monotonic()
        try:
            self._kill_on_schedule(kills, started, workload)
        finally:
            workload.stop()
            self._note_workload(workload, time.monotonic() - started)

    def _kill_on_schedule(self, kills: list[PlannedKill], started: float, workload: Crowd) -> None:
        killer = Killer(self._node, self._journal.read, wait_until, self._options.patience_s)
        pending: LandedKill | None = None
        for index, planned in enumerate(kills):
            if self._is_overtaken(kills, index, time.monotonic() - started):
                continue
            _wait_until_time(started + planned.at_s)
            self._tell(pending, started, workload)
            pending = None
            killer.wait_ready()
            if time.monotonic() - started > self._options.seconds and self._has_all_kinds():
                break
            pending = killer.kill(planned.kind)
            self._outcome.kills.append(pending)
            if not self._container.check():
                raise RigError(f"the container ended: {self._container.log_end()}")
        _wait_until_time(started + self._options.seconds)
        self._tell(pending, started, workload)
        killer.wait_ready()

    def _is_overtaken(self, kills: list[PlannedKill], index: int, now_s: float) -> bool:
        """On a slow machine: a kill whose successor of the same kind is due already is left out."""
        later = [kill for kill in kills[index + 1 :] if kill.kind is kills[index].kind]
        return bool(later) and later[0].at_s < now_s

    def _has_all_kinds(self) -> bool:
        return self._outcome.planned == {kill.kind for kill in self._outcome.kills}

    def _tell(self, kill: LandedKill | None, started: float, workload: Crowd) -> None:
        if kill is None:
            return
        with contextlib.suppress(RigError):  # an operation that hangs shows up when it is ended
            wait_until(lambda: workload.has_passed(kill.served_ns), TELL_TIMEOUT_S, "operations")
        stall_ms = stall_ns(workload.recent(), kill.killed_ns, kill.served_ns) / 1e6
        back_ms = (kill.served_ns - kill.killed_ns) / 1e6
        say(
            f"{kill.killed_ns / 1e9 - started:6.1f} s  killed {kill.kind.value:<10}  "
            f"stall {stall_ms:7.1f} ms  back after {back_ms:7.1f} ms  "
            f"recovered {kill.recovered + kill.already_done}"
        )

    def _note_workload(self, workload: Crowd, seconds: float) -> None:
        outcome = self._outcome
        outcome.seconds = seconds
        outcome.operations = workload.operations()
        outcome.sets = sum(c.set_cnt for c in workload.clients)
        outcome.reads_direct = len(workload.reader.operations)
        outcome.io_errors += workload.errors()
        outcome.lost_or_stale += workload.wrong()
        counters = self._journal.read()
        if counters.medium_errors:
            outcome.io_errors.append(f"{counters.medium_errors} commands ended in MEDIUM ERROR")
        if self._mount.error_count():
            outcome.io_errors.append(f"ext4 noted {self._mount.error_count()} errors")
        self._container.check()
        outcome.container_restarts = self._container.restarts

    def _note_kernel_log(self, log: KernelLog) -> None:
        lines = log.lines()
        if lines is None:
            self._outcome.kernel_log = "not readable here"
            return
        is_strict = self._outcome.provider == "tcmu"
        bad = offending(lines, self._mount.device_name, is_strict=is_strict)
        self._outcome.io_errors += [f"kernel: {line}" for line in bad]
        if bad:
            self._outcome.kernel_log = f"{len(bad)} lines of trouble"
        elif self._outcome.kernel_log == "not read":
            self._outcome.kernel_log = "clean"

    def _stop_and_check_disk(self) -> None:
        self._container.stop()
        self._outcome.container_restarts = self._container.restarts
        self._mount.unmount()
        self._outcome.io_errors += self._mount.check()

    def _read_back(self) -> None:
        keys = self._ledger.written()
        self._outcome.keys = len(keys)
        say(f"check: read back {len(keys)} keys")
        try:
            wrong = client.read_back(self._socket, self._ledger, self._options.patience_s)
        except client.FAILURES as error:
            raise RigError(f"reading back failed: {error}") from error
        self._outcome.lost_or_stale += wrong


def _wait_until_time(when: float) -> None:
    time.sleep(max(0.0, when - time.monotonic()))
