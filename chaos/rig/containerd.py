"""Containers of containerd 1.6: a daemon of our own, its programs from the Debian package.

The package is unpacked below the cache, never installed: on a host with another containerd it would
take that one's place. Root, state and socket are in the run's folder and the namespace is the
run's own, so that no other containerd or container of the host is seen or touched.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from chaos.rig import packages
from chaos.rig.container import bundle_config
from chaos.rig.node import wait_until
from chaos.rig.problem import RigError, run
from chaos.rig.process import Process, processes_naming

__all__ = ["ContainerdContainer", "programs"]

PACKAGE = "containerd"
SHIM_STATE = Path("/run/containerd/runc")  # where the shim keeps runc's state, whatever the root
START_TIMEOUT_S = 300.0  # a bound: in an emulated guest it takes half a minute
# What would look for file systems, networks and collectors that we have no use for.
DISABLED = [
    "io.containerd.grpc.v1.cri",
    "io.containerd.internal.v1.opt",
    "io.containerd.internal.v1.tracing",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.overlayfs",
    "io.containerd.snapshotter.v1.zfs",
    "io.containerd.tracing.processor.v1.otlp",
]


def programs(cache: Path) -> Path:
    """The folder with containerd, its shim and ctr; downloaded and unpacked unless it is there.

    Raises:
        RigError: the package can not be had.
    """
    folder = cache / PACKAGE
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            packages.unpack(packages.download([PACKAGE], folder / "debs"), folder / "tree")
            shutil.rmtree(folder / "debs")
            (folder / "complete").touch()
    return (folder / "tree/usr/bin").resolve()


class ContainerdContainer:
    """A container of a containerd of its own; see ``ContainerRunner``.

    Args:
        folder: on a disk or tmpfs, not on an overlay: root, state, socket, logs.
        cache: where ``programs`` are.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        rootfs: Path,
        command: list[str],
        cache: Path,
        binds: Mapping[str, Path] | None = None,
    ) -> None:
        self.name = name
        self.restarts = 0
        self.init: Process | None = None
        self._folder = folder
        self._programs = programs(cache)
        self._spec = bundle_config(rootfs, command, binds)
        self._daemon: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the daemon and the container and remembers the container's init process.

        Raises:
            RigError: containerd did not come up or refused, or the container ended at once.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        self._start_daemon()
        spec, pid_file = self._folder / "config.json", self._folder / "init.pid"
        spec.write_text(json.dumps(self._spec, indent=2))
        pid_file.unlink(missing_ok=True)
        log = f"file://{self._folder / 'container.log'}"
        options: list[str | Path] = [
            "--detach",
            "--config",
            spec,
            "--pid-file",
            pid_file,
            "--log-uri",
            log,
        ]
        try:
            self._ctr("run", *options, self.name, what="run the container")
        except RigError as error:
            self.stop()
            raise RigError(f"{error}; {self.log_end()}") from error
        self.init = Process.of(int(pid_file.read_text()))
        if self.init is None:
            self.stop()
            raise RigError(f"the container ended at once: {self.log_end()}")

    def check(self) -> bool:
        """Whether it is still the process that was started; a loss is counted once."""
        if self.init is None:
            return False
        if self.init.is_alive():
            return True
        self.restarts += 1
        self.init = None
        return False

    def stop(self, timeout_s: float = 60.0) -> None:
        """Ends container, shim and daemon. Fine when they are not running.

        Raises:
            RigError: something did not even end by SIGKILL.
        """
        self.check()
        init, self.init = self.init, None
        if init is not None:
            init.send(signal.SIGTERM)
            if not init.wait_gone(timeout_s):
                init.send(signal.SIGKILL)
                init.wait_gone(timeout_s)
        if self._daemon is None:
            return
        for order in ("task", "container"):
            with contextlib.suppress(RigError):  # ctr's exit code is that of the container
                self._ctr(order, "delete", self.name, what=f"delete the {order}")
        self._end_daemon()
        left = [p for p in [init, *processes_naming(self._folder)] if p and p.is_alive()]
        for process in left:  # a shim whose container could not be deleted
            process.send(signal.SIGKILL)
        if not all(process.wait_gone(timeout_s) for process in left):
            raise RigError(f"processes of {self.name} do not end: {[p.pid for p in left]}")
        shutil.rmtree(SHIM_STATE / self.name, ignore_errors=True)

    def log_end(self) -> str:
        """The last lines the container and containerd wrote."""
        text = ""
        for name in ("container.log", "containerd.log"):
            path = self._folder / name
            text += path.read_text(errors="replace")[-1000:] if path.is_file() else ""
        return text.strip()

    @property
    def _socket(self) -> Path:
        return self._folder / "containerd.sock"

    def _start_daemon(self) -> None:
        config = self._folder / "containerd.toml"
        config.write_text(
            f'version = 2\nroot = "{self._folder / "root"}"\nstate = "{self._folder / "state"}"\n'
            f"disabled_plugins = {json.dumps(DISABLED)}\n"
            f'[grpc]\naddress = "{self._socket}"\n[ttrpc]\naddress = "{self._socket}.ttrpc"\n'
        )
        with (self._folder / "containerd.log").open("ab") as log:
            self._daemon = subprocess.Popen(
                [self._programs / "containerd", "--config", config],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment(),
                start_new_session=True,
            )
        wait_until(self._is_answering(self._daemon), START_TIMEOUT_S, "an answer of containerd")

    def _is_answering(self, daemon: subprocess.Popen[bytes]) -> Callable[[], bool]:
        def ask() -> bool:
            if daemon.poll() is not None:
                raise RigError(f"containerd ended: {self.log_end()}")
            # It listens once its plugins are there; a ctr for each question would slow it down.
            with socket.socket(socket.AF_UNIX) as client:
                return client.connect_ex(os.fspath(self._socket)) == 0

        return ask

    def _end_daemon(self) -> None:
        daemon, self._daemon = self._daemon, None
        if daemon is None:
            return
        daemon.terminate()
        try:
            daemon.wait(START_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
        self._socket.unlink(missing_ok=True)

    def _ctr(self, *arguments: str | Path, what: str) -> str:
        # The namespace is the container's name: the shim's state outside of our folder is our own.
        command = [self._programs / "ctr", "-a", self._socket, "-n", self.name, *arguments]
        return run(command, what=what, env=self._environment(), timeout_s=START_TIMEOUT_S)

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "PATH": f"{self._programs}{os.pathsep}{os.environ['PATH']}"}
