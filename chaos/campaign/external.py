"""Somebody else's block device under the same workloads and the same schedule of kills.

How another implementation is compared: it is started and killed by commands that the user gives.
What is known of it is what the device shows: operations, errors, data, and how long they took.
"""

from __future__ import annotations

import mmap
import os
import random
import shutil
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from chaos.campaign.stage import ExternalCommands, LoadedDevice, Stage, StageOptions
from chaos.faults.base import Landing, Need, Site, TargetDevice
from chaos.rig.counters import DeviceJournal
from chaos.rig.image import CACHE
from chaos.rig.node import Node, wait_until
from chaos.rig.problem import RigError, run
from chaos.workloads import catalogue
from chaos.workloads.ground import Ground, Runtime

__all__ = ["ExternalKill", "build_external_stage"]

BLOCK_BYTES = 4096
AIM_S = 0.5
SIGNALLED = 128  # exit codes of a shell from here on: its command was killed
END_S = 10.0


class ExternalNode(Node):
    """What stands in for an installation: commands, and a device that answers or not."""

    def __init__(self, folder: Path, commands: ExternalCommands, patience_s: float) -> None:
        super().__init__(folder, folder, "external", patience_s)
        self._commands = commands
        self._started: list[subprocess.Popen[bytes]] = []

    def has_standby(self) -> bool:
        """Nothing is known of it: whoever kills it has to expect that it is ready."""
        return True

    def log_end(self) -> str:
        log = self.run_dir / "external.log"
        return log.read_text(errors="replace")[-1500:].strip() if log.is_file() else ""

    def start(self) -> None:
        """Runs the start command, if there is one; it may stay in the foreground."""
        if not self._commands.start:
            return
        with (self.run_dir / "external.log").open("ab") as log:
            self._started.append(
                subprocess.Popen(
                    ["/bin/sh", "-c", self._commands.start],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )

    def kill(self) -> None:
        """Runs the kill command to its end.

        Raises:
            RigError: it failed.
        """
        run(["/bin/sh", "-c", self._commands.kill], what="--external-kill",
            timeout_s=self.patience_s)  # fmt: skip

    def wait_served(self) -> int:
        """Reads a block past every cache; returns when it was there, CLOCK_MONOTONIC.

        Raises:
            RigError: not within the patience, or the start command failed.
        """
        wait_until(self._can_read, self.patience_s, f"a read of {self._commands.device}")
        return time.monotonic_ns()

    def in_flight(self) -> int:
        """Commands the kernel has given to the device and not got back."""
        name = self._commands.device.resolve().name
        try:
            return sum(map(int, Path("/sys/class/block", name, "inflight").read_text().split()))
        except OSError:
            return 0

    def end(self) -> None:
        """Ends what the start command left in the foreground."""
        for process in self._started:
            process.terminate()
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _can_read(self) -> bool:
        for process in self._started:
            if 0 < (process.poll() or 0) < SIGNALLED:
                raise RigError(
                    f"--external-start ended with {process.returncode}: {self.log_end()}"
                )
        try:
            fd = os.open(self._commands.device, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            with mmap.mmap(-1, BLOCK_BYTES) as buffer:
                return os.preadv(fd, [buffer], 0) == BLOCK_BYTES
        except OSError:
            return False
        finally:
            os.close(fd)


class ExternalKill:
    """Takes the place of ``worker-kill``: the same schedule, another victim."""

    kind = "worker-kill"
    about = "the command of --external-kill, then that of --external-start"
    needs: frozenset[Need] = frozenset()

    def inflict(self, site: Site, chance: random.Random) -> Landing:
        node = site.node
        assert isinstance(node, ExternalNode)
        deadline = time.monotonic() + AIM_S
        while not node.in_flight() and time.monotonic() < deadline:
            pass
        in_flight = node.in_flight()
        begun_ns = time.monotonic_ns()
        node.kill()
        node.start()
        served_ns = node.wait_served()
        return Landing(
            begun_ns=begun_ns,
            served_ns=served_ns,
            has_landed=in_flight > 0,
            evidence=f"{in_flight} requests in flight in the kernel when the command was run",
            workers_killed=1,
        )


def build_external_stage(options: StageOptions, stack: ExitStack) -> Stage:
    """See ``StageBuilder``: one device, one workload; a device that is not there is started.

    Raises:
        RigError: it does not come up.
    """
    assert options.external is not None
    folder = Path(tempfile.mkdtemp(prefix=f"obdsup-chaos-{os.getpid()}-", dir="/var/tmp"))
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    node = ExternalNode(folder, options.external, options.patience_s)
    stack.callback(node.end)
    if not options.external.device.exists():
        node.start()
    node.wait_served()
    device = options.external.device
    target = TargetDevice("external", DeviceJournal(folder, "external"), device, (), None, None)
    (name,) = options.workloads
    ground = Ground(
        device=device,
        mount=folder / "mnt",
        scratch=folder,
        seed=options.seed,
        cache=CACHE,
        pause_s=options.pause_s,
        patience_s=options.patience_s,
        runtime=Runtime(options.runtime),
    )
    return Stage(node, folder, loads=[LoadedDevice(target, catalogue.make(name, ground))])
