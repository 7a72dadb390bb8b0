"""Memory limits of workers: a control group for each worker whose devices ask for one.

Version 2 where its memory controller is there, else version 1. The groups lie beside the service's
own, not below it: a group that has children with controllers can not be given processes any more,
and the service manager could not start the next supervisor there. Workers without a limit stay
where they were started.

Source: Linux Documentation/admin-guide/cgroup-v2.rst (memory.max, memory.events), cgroup-v1/memory.
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

__all__ = ["WorkerCgroups"]

ROOT = Path("/sys/fs/cgroup")
_NO_LIMIT = {"memory.max": "max", "memory.limit_in_bytes": "-1"}


class WorkerCgroups:
    """All groups of one supervisor, by worker id; safe from any thread for different workers."""

    def __init__(self, run_dir: Path, root: Path = ROOT) -> None:
        name = f"obdsup-{hashlib.sha256(str(run_dir).encode()).hexdigest()[:12]}"
        self._is_v2 = "memory" in _read(root / "cgroup.controllers").split()
        self._top = (root if self._is_v2 else root / "memory") / name
        self._limit_file = "memory.max" if self._is_v2 else "memory.limit_in_bytes"
        self._count_file = "memory.events" if self._is_v2 else "memory.oom_control"

    def limit(self, worker_id: str, pid: int, limit_bytes: int) -> str:
        """Puts a process under a limit, or lifts it (0); returns "", or why that can not be.

        What the process had allocated before stays with its old group.
        """
        group = self._top / worker_id
        if not limit_bytes and not group.is_dir():
            return ""
        try:
            self._make(group)
            value = str(limit_bytes) if limit_bytes else _NO_LIMIT[self._limit_file]
            (group / self._limit_file).write_text(value)
            (group / "cgroup.procs").write_text(str(pid))
        except OSError as error:
            return f"{group}: {error.strerror}"
        return ""

    def _make(self, group: Path) -> None:
        if group.is_dir():
            return
        if self._is_v2:
            (self._top.parent / "cgroup.subtree_control").write_text("+memory")
        self._top.mkdir(exist_ok=True)
        if self._is_v2:
            (self._top / "cgroup.subtree_control").write_text("+memory")
        group.mkdir(exist_ok=True)

    def has_oom(self, worker_id: str) -> bool:
        """Whether the kernel killed a process of the group for memory."""
        for line in _read(self._top / worker_id / self._count_file).splitlines():
            key, _, value = line.partition(" ")
            if key == "oom_kill":
                return int(value) > 0
        return False

    def remove(self, worker_id: str) -> None:
        """After the worker's death; the last one takes the whole folder away."""
        for path in (self._top / worker_id, self._top):
            with contextlib.suppress(OSError):
                path.rmdir()

    def remove_empty(self) -> bool:
        """Removes groups of workers that died while nobody looked; returns whether none is left."""
        for path in (*self._top.glob("*/"), self._top):
            with contextlib.suppress(OSError):  # somebody lives there
                path.rmdir()
        return not self._top.is_dir()


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
