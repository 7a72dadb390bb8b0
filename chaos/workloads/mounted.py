"""A workload on the device's file system, in a container or not: the order of things around a load.

start: mount (after mke2fs on a blank device), start the container, start the load program.
verify: stop the load and the container, unmount, e2fsck, mount, start the container, read back:
what is read then comes from the device, not from a page cache.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

from chaos.rig.container import ContainerRunner
from chaos.rig.latency import LatencySlice
from chaos.rig.mount import Mount
from chaos.rig.problem import RigError
from chaos.workloads.base import Findings
from chaos.workloads.ground import Ground
from chaos.workloads.program import LoadProgram

__all__ = ["MountedWorkload"]

VERIFY_FACTOR = 10  # a read-back is many steps


class MountedWorkload:
    """One load program on one mounted device.

    Args:
        module: of the load program; gets ``folder`` (the mount), ``seed``, ``pause_s`` and
            ``patience_s`` beside ``arguments``.
        container: to be started before the program; its rootfs is the mount.
        wait_serving: returns when what runs in the container can be asked. Raises ``RigError``.
    """

    def __init__(
        self,
        name: str,
        ground: Ground,
        module: str,
        arguments: Mapping[str, object] | None = None,
        container: ContainerRunner | None = None,
        wait_serving: Callable[[], None] | None = None,
    ) -> None:
        self.name = name
        self._ground = ground
        self._mount = Mount(str(ground.device), ground.mount)
        self._container = container
        self._wait_serving = wait_serving
        known = {
            "folder": str(ground.mount),
            "seed": ground.seed,
            "pause_s": ground.pause_s,
            "patience_s": ground.patience_s,
        }
        folder = ground.scratch / name
        self._program = LoadProgram(
            module, folder, {**known, **(arguments or {})}, ground.patience_s
        )

    def start(self) -> None:
        self._mount.prepare()
        self._mount.mount()
        self._start_container()
        self._program.start()

    def operations(self) -> int:
        return self._program.operations()

    def slices(self) -> Sequence[LatencySlice]:
        return self._program.slices()

    def stop(self) -> None:
        self._program.stop()

    def verify(self) -> Findings:
        findings = Findings()
        self._program.stop()
        self._stop_container()
        if self._remount(findings):
            if self._is_serving(findings):
                self._program.verify(self._ground.patience_s * VERIFY_FACTOR)
            self._note_errors(findings)
            self._stop_container()
            self._mount.unmount()
        findings.add(self._program.findings())
        if self._container:
            findings.container_restarts = self._container.restarts
        return findings

    def close(self) -> None:
        with ExitStack() as stack:  # each of them, also when another fails
            stack.callback(self._mount.unmount)
            stack.callback(self._stop_container)
            stack.callback(self._program.close)

    def _remount(self, findings: Findings) -> bool:
        """Unmount, e2fsck, mount; False when it can not be mounted: that is a finding."""
        self._note_errors(findings)
        self._mount.unmount()
        findings.corrupt += self._mount.check()
        try:
            self._mount.mount()
        except RigError as error:
            findings.io_errors.append(str(error))
        return self._mount.is_mounted

    def _is_serving(self, findings: Findings) -> bool:
        """Starts the container on what is on the device; False, a finding, when it refuses."""
        try:
            self._start_container()
        except RigError as error:
            findings.corrupt.append(f"{self.name} does not start on what it left: {error}")
            return False
        return True

    def _note_errors(self, findings: Findings) -> None:
        count = self._mount.error_count()
        if count:
            findings.io_errors.append(f"ext4 noted {count} errors on {self._mount.device_name}")

    def _start_container(self) -> None:
        if self._container:
            self._container.start()
        if self._wait_serving:
            self._wait_serving()

    def _stop_container(self) -> None:
        if self._container:
            self._container.check()
            self._container.stop()
