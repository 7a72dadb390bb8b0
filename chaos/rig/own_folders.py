"""Folders of one run: named after it, on the kinds of disk that an installed system has them on."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

__all__ = ["OwnFolders"]

ON_DISK = "/var/tmp"
KEPT_LOG_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class OwnFolders:
    """``run`` is on a tmpfs, as /run is; ``state`` on a disk. Whoever made them removes them."""

    run: Path
    state: Path

    @classmethod
    def make(cls, name: str) -> OwnFolders:
        """New ones; ``name`` and the pid are in their names."""
        prefix = f"obdsup-{name}-{os.getpid()}-"
        return cls(
            Path(tempfile.mkdtemp(prefix=prefix, dir=_memory())),
            Path(tempfile.mkdtemp(prefix=prefix, dir=ON_DISK)),
        )

    def keep_logs(self, log_folder: Path) -> None:
        """Copies the end of each log in them to ``log_folder``, which is emptied first."""
        shutil.rmtree(log_folder, ignore_errors=True)
        log_folder.mkdir(parents=True, exist_ok=True)
        for folder in (self.run, self.state):
            for log in folder.rglob("*.log"):
                if log.is_file():
                    name = str(log.relative_to(folder)).replace("/", "-")
                    (log_folder / name).write_bytes(log.read_bytes()[-KEPT_LOG_BYTES:])


def _memory() -> str:
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    tmpfs = {fields[1] for fields in mounts if fields[2] == "tmpfs"}
    usable = (f for f in ("/run", "/dev/shm") if f in tmpfs and os.access(f, os.W_OK))
    return next(usable, "/tmp")
