"""A container on the mounted device: what every runtime must do, and runc.

The container has its own pid, mount, ipc, uts and network namespaces; clients reach it through a
unix socket in the rootfs or a folder of the host bound into it. runc's root is in the run's own
folder, the id is unique: no other container of the host is seen or touched.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from chaos.rig.problem import RigError, run
from chaos.rig.process import Process

__all__ = ["Container", "ContainerRunner", "bundle_config"]

CAPABILITIES = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_SETGID", "CAP_SETUID"]
MOUNTS = [
    {"destination": "/proc", "type": "proc", "source": "proc"},
    {
        "destination": "/dev",
        "type": "tmpfs",
        "source": "tmpfs",
        "options": ["nosuid", "strictatime", "mode=755", "size=64k"],
    },
]


def bundle_config(
    rootfs: Path, command: list[str], binds: Mapping[str, Path] | None = None
) -> dict[str, object]:
    """The OCI runtime config: namespaces, no resource limits, writable rootfs.

    Args:
        binds: path in the container -> folder of the host that is seen there.
    """
    bound = [
        {"destination": inside, "type": "bind", "source": str(folder), "options": ["rbind", "rw"]}
        for inside, folder in (binds or {}).items()
    ]
    kinds = ("bounding", "effective", "permitted", "inheritable")
    return {
        "ociVersion": "1.0.2",
        "hostname": "demo",
        "root": {"path": str(rootfs), "readonly": False},
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": command,
            "env": ["PATH=/usr/bin:/bin"],
            "cwd": "/",
            "capabilities": dict.fromkeys(kinds, CAPABILITIES),
            "noNewPrivileges": True,
        },
        "mounts": [*MOUNTS, *bound],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts", "network")],
        },
    }


class ContainerRunner(Protocol):
    """One container, from ``start`` to ``stop``; can be started again after a stop.

    ``restarts`` counts the times it was found dead, or to be another process than the one that was
    started, without having been stopped by us.
    """

    name: str
    restarts: int
    init: Process | None

    def start(self) -> None:
        """Starts it and remembers its init process.

        Raises:
            RigError: the runtime refused, or the container ended at once.
        """

    def check(self) -> bool:
        """Whether it is still the process that was started; a loss is counted once."""

    def stop(self, timeout_s: float = 60.0) -> None:
        """Ends it as an operator would (SIGTERM, then SIGKILL). Fine when it is not running.

        Raises:
            RigError: it did not even end by SIGKILL.
        """

    def log_end(self) -> str:
        """The last lines the container and its runtime wrote."""


class Container:
    """A container of runc; see ``ContainerRunner``.

    Args:
        folder: runc's root, the bundle, the logs.
        binds: path in the container -> folder of the host that is seen there.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        rootfs: Path,
        command: list[str],
        binds: Mapping[str, Path] | None = None,
    ) -> None:
        self.name = name
        self.restarts = 0
        self.init: Process | None = None
        self._folder = folder
        self._config = bundle_config(rootfs, command, binds)
        self._runc = ["runc", "--root", str(folder / "runc"), "--log", str(folder / "runc.log")]

    def start(self) -> None:
        """Starts it and remembers its init process.

        Raises:
            RigError: runc refused, or the container ended at once.
        """
        bundle = self._folder / "bundle"
        bundle.mkdir(parents=True, exist_ok=True)
        (bundle / "config.json").write_text(json.dumps(self._config, indent=2))
        pid_file = self._folder / "init.pid"
        command = [*self._runc, "run", "--detach", "--bundle", str(bundle)]
        with (self._folder / "container.log").open("ab") as log:
            # The container keeps these descriptors: a pipe would end with us.
            code = subprocess.run(
                [*command, "--pid-file", str(pid_file), self.name],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                check=False,
                start_new_session=True,
            ).returncode
        self.init = Process.of(int(pid_file.read_text())) if code == 0 else None
        if self.init is None:
            self._delete()
            raise RigError(f"the container did not start (runc: {code}): {self.log_end()}")

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
        """Ends it as an operator would (SIGTERM, then SIGKILL). Fine when it is not running.

        Raises:
            RigError: it did not even end by SIGKILL.
        """
        self.check()
        init, self.init = self.init, None
        gone = True
        if init is not None:
            init.send(signal.SIGTERM)
            if not init.wait_gone(timeout_s):
                init.send(signal.SIGKILL)
                gone = init.wait_gone(timeout_s)
        self._delete()
        if not gone:
            raise RigError(f"container init {init} does not end")

    def log_end(self) -> str:
        """The last lines the container and runc wrote."""
        text = ""
        for name in ("container.log", "runc.log"):
            path = self._folder / name
            text += path.read_text(errors="replace")[-1000:] if path.is_file() else ""
        return text.strip()

    def _delete(self) -> None:
        # runc refuses for a moment while the dead init is still in its cgroup.
        deadline = time.monotonic() + 20
        while (self._folder / "runc" / self.name).is_dir():
            try:
                run([*self._runc, "delete", "--force", self.name], what="delete the container")
            except RigError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
