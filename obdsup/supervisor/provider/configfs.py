"""The few things one does to configfs, with every call that the kernel may hold up bounded.

Linking a LUN waits for the worker's answer to INQUIRY, and taking it away for the answer to a
SYNCHRONIZE CACHE: with a dead worker both wait for ever, in a state no signal ends. Such a call
is therefore made by a child process. When it does not end in time the caller gets an error and
goes on living; the child stays behind and ends by itself as soon as a worker serves the ring.
A supervisor stuck in such a call could neither bring that worker nor be restarted.
"""

from __future__ import annotations

import errno
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

from obdsup.errors import ProviderError

__all__ = ["Configfs", "is_configfs_mounted"]

_HANGS_HINT = "no worker answers on the ring: the call ends by itself once one serves it"


def is_configfs_mounted(mountinfo: str, path: Path) -> bool:
    """Whether the text of ``/proc/self/mountinfo`` has configfs at ``path``."""
    for line in mountinfo.splitlines():
        left, separator, right = line.partition(" - ")
        if separator and left.split()[4:5] == [str(path)] and right.split()[:1] == ["configfs"]:
            return True
    return False


class Configfs:
    """Idempotent operations: what is already as asked for is success."""

    def __init__(self, timeout_s: float) -> None:
        """``timeout_s`` bounds each call that the kernel may hold up."""
        self._timeout_s = timeout_s

    def make(self, path: Path) -> None:
        """mkdir, without parents: each level means something in configfs."""
        try:
            path.mkdir()
        except FileExistsError:
            pass
        except OSError as error:
            raise ProviderError(f"mkdir {path}: {error.strerror}") from error

    def read(self, path: Path) -> str:
        """The stripped text of an attribute, "" when it is not there or has no value."""
        try:
            return path.read_text().strip()
        except (FileNotFoundError, NotADirectoryError):
            return ""
        except OSError as error:
            if error.errno in (errno.ENODEV, errno.EINVAL):
                return ""
            raise ProviderError(f"read {path}: {error.strerror}") from error

    def write(self, path: Path, value: str) -> None:
        """Writes an attribute with one write call, as configfs wants it."""
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, value.encode())
            finally:
                os.close(fd)
        except OSError as error:
            raise ProviderError(
                f"write {value!r} to {path}: {error.strerror}", hint="see dmesg for the reason"
            ) from error

    def write_bounded(self, path: Path, value: str, is_done: Callable[[], bool]) -> None:
        """As ``write``, for an attribute whose write may be held up."""
        script = 'printf %s "$1" > "$2"'
        self._run(["/bin/sh", "-c", script, "sh", value, str(path)], is_done, f"write to {path}")

    def link(self, path: Path, target: Path) -> None:
        """Makes the symbolic link ``path``; this is what attaches a LUN."""
        if not path.is_symlink():
            self._run(["ln", "-s", str(target), str(path)], path.is_symlink, f"link {path}")

    def unlink(self, path: Path) -> None:
        """Removes a link; this is what detaches a LUN."""
        if path.is_symlink():
            self._run(["rm", str(path)], lambda: not path.is_symlink(), f"unlink {path}")

    def remove(self, path: Path) -> None:
        """rmdir of one object, whose children are gone."""
        if path.is_dir():
            self._run(["rmdir", str(path)], lambda: not path.is_dir(), f"rmdir {path}")

    def flush(self, node: Path) -> None:
        """fsync of a block device: what it was told to keep is at the worker."""
        statuses: list[int] = []
        self._run(["sync", str(node)], lambda: statuses == [0], f"sync {node}", statuses)

    def _run(
        self,
        command: list[str],
        is_done: Callable[[], bool],
        what: str,
        statuses: list[int] | None = None,
    ) -> None:
        """Runs the child. Its effect decides, not its status, which somebody else may reap."""
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            _, said = child.communicate(timeout=self._timeout_s)
        except subprocess.TimeoutExpired as error:
            threading.Thread(target=child.communicate, name=what, daemon=True).start()
            raise ProviderError(
                f"{what}: not done within {self._timeout_s:.0f} s", hint=_HANGS_HINT, pid=child.pid
            ) from error
        if statuses is not None:
            statuses.append(child.returncode)
        if not is_done():
            reason = said.decode(errors="replace").strip().rpartition(": ")[2]
            raise ProviderError(f"{what}: {reason or 'had no effect'}")
