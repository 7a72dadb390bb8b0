"""Worker processes as supervisord's group of them holds them: started, adopted, dropped.

All methods run in supervisord's loop; ``release_path_of`` and ``command`` may run anywhere.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from obdsup.state.process import ProcessIdentity
from obdsup.supervisor.embedding import WORKERS_GROUP, EmbeddedSupervisor
from obdsup.supervisor.release import worker_command
from obdsup.supervisor.settings import Settings
from obdsup.supervisor.worker_process import WorkerProcess, WorkerProcessConfig

__all__ = ["WorkerStarter"]

DEAD_LOGS_KEPT = 32
STOPPED_KEPT = 8  # stopped by hand: kept so that supervisorctl can start them again


class WorkerStarter:
    """Gives workers their ids, commands, sockets and logs.

    Args:
        settings: paths and commands.
        loop: whose group they are in.
        on_spawned: called with the process and its pidfd when it was started, not when adopted.
        on_exited: called with the process and its status, or None when that is unknown.
    """

    def __init__(
        self,
        settings: Settings,
        loop: EmbeddedSupervisor,
        on_spawned: Callable[[WorkerProcess, int], None],
        on_exited: Callable[[WorkerProcess, int | None], None],
    ) -> None:
        self._settings = settings
        self._loop = loop
        self._on_spawned = on_spawned
        self._on_exited = on_exited
        self._last_number = 0
        self._dead_logs: deque[Path] = deque()

    def note_number(self, worker_id: str) -> None:
        """Ids given from now on come after this one: a dead worker's id is not used again."""
        if worker_id[1:].isdigit():
            self._last_number = max(self._last_number, int(worker_id[1:]))

    def start(self, release_path: str) -> str | None:
        """Starts one worker; returns None, or why it could not be started."""
        self._last_number += 1
        worker_id = f"w{self._last_number}"
        process = self._config(worker_id, release_path).make_process(self._group())
        self._group().processes[worker_id] = process
        if process.spawn() is not None:
            return None
        del self._group().processes[worker_id]
        return f"worker {worker_id}: {process.spawnerr}"

    def adopt(self, worker_id: str, identity: ProcessIdentity, pidfd: int) -> str:
        """Takes over a process and its pidfd; returns the path of its release."""
        self.note_number(worker_id)
        path = self.release_path_of(identity.pid)
        process = self._config(worker_id, path).make_process(self._group())
        self._group().processes[worker_id] = process
        process.adopt(identity, pidfd)
        return path

    def drop(self, process: WorkerProcess) -> None:
        """Forgets a dead process, unless an operator stopped it by hand and may start it again."""
        self.socket_of(process.config.name).unlink(missing_ok=True)
        self._dead_logs.append(process.config.log_path)
        if len(self._dead_logs) > DEAD_LOGS_KEPT:
            self._dead_logs.popleft().unlink(missing_ok=True)
        mine = self._group().processes
        if not process.administrative_stop:
            self._loop.call_soon(lambda: mine.pop(process.config.name, None))
        stopped = [p for p in mine.values() if not p.pid and p.administrative_stop]
        for old in stopped[:-STOPPED_KEPT]:
            mine.pop(old.config.name, None)

    def socket_of(self, worker_id: str) -> Path:
        """Where it listens."""
        return self._settings.workers_dir / f"{worker_id}.sock"

    def command(self, release_path: str) -> tuple[str, ...]:
        """How a worker is started. No probe: a take-over can not wait for one."""
        if not release_path:
            return self._settings.worker_command
        return worker_command(release_path)

    def release_path_of(self, pid: int) -> str:
        """Where the release of a worker that another supervisor started lies, by its command."""
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()
        except (OSError, UnicodeDecodeError):
            return ""
        if not command.startswith("/") or not Path(command).name.startswith("python"):
            return ""  # not started by the command of a release
        root, own = (
            Path(name).parent.parent for name in (command, self._settings.worker_command[0])
        )
        return "" if root == own else str(root)

    def _group(self) -> Any:
        return self._loop.process_groups[WORKERS_GROUP]

    def _config(self, worker_id: str, release_path: str) -> WorkerProcessConfig:
        socket = str(self.socket_of(worker_id))
        argv = [*self.command(release_path), "--id", worker_id, "--socket", socket]
        return WorkerProcessConfig(
            self._loop.options, worker_id, argv, self._settings.log_dir / f"worker-{worker_id}.log",
            self._on_spawned, self._on_exited, release_path,
            {"OBDSUP_CACHE": str(self._settings.index_cache_dir)},
        )  # fmt: skip
