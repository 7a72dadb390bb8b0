"""Where the kernel shows itself in the file system, and device nodes for what it shows.

Tests put another tree in place of ``/sys``, ``/dev`` and ``/proc``.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from obdsup.errors import ProviderError

__all__ = ["KernelRoots", "holders_of", "texts_below", "wait_for"]

T = TypeVar("T")

_POLL_S = 0.01
_TEXT_MAX_BYTES = 4096  # what an attribute of sysfs holds at most


@dataclass(frozen=True, slots=True)
class KernelRoots:
    """The mount points of sysfs, devtmpfs and procfs."""

    sys: Path = Path("/sys")
    dev: Path = Path("/dev")
    proc: Path = Path("/proc")

    def ensure_node(self, sysfs: Path, kind: int) -> Path:
        """The device node of ``sysfs``; made when no devtmpfs made it (a container's own /dev).

        Args:
            kind: ``stat.S_IFCHR`` or ``stat.S_IFBLK``.

        Raises:
            ProviderError: the node is missing and can not be made, or another device sits there.
        """
        node = self.dev / sysfs.name
        major, minor = (int(part) for part in (sysfs / "dev").read_text().strip().split(":"))
        device = os.makedev(major, minor)
        try:
            found = node.stat()
        except FileNotFoundError:
            try:
                with contextlib.suppress(FileExistsError):
                    os.mknod(node, kind | 0o600, device)
            except OSError as error:
                raise ProviderError(
                    f"{node}: {error.strerror}", hint="mount devtmpfs on /dev, or run as root"
                ) from error
            found = node.stat()
        if stat.S_IFMT(found.st_mode) != kind or found.st_rdev != device:
            raise ProviderError(
                f"{node} is not device {major}:{minor}",
                hint="a stale node: remove it, the right one is made again",
            )
        return node


def texts_below(folder: Path, file_name: str) -> Iterator[tuple[str, str]]:
    """Name and the text of ``file_name`` of each entry that has one, without its line's end.

    Plain system calls: with a hundred devices this is done tens of thousands of times.
    """
    base = str(folder)
    try:
        entries = sorted(os.listdir(base))
    except OSError:
        return
    for entry in entries:
        try:
            fd = os.open(f"{base}/{entry}/{file_name}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # has none, or went away while we looked
            continue
        try:
            text = os.read(fd, _TEXT_MAX_BYTES)
        except OSError:
            continue
        finally:
            os.close(fd)
        yield entry, text.decode(errors="surrogateescape").rstrip("\n")


def holders_of(roots: KernelRoots, node: Path) -> list[int]:
    """The processes that have ``node`` open or mapped, as far as /proc shows us; never raises."""
    wanted = str(node)
    found = set()
    for process in roots.proc.glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if any(_link(fd) == wanted for fd in (process / "fd").iterdir()):
                found.add(int(process.name))
                continue
        with contextlib.suppress(OSError):
            maps = (process / "maps").read_text(errors="replace").splitlines()
            if any(line.endswith(f" {wanted}") for line in maps):
                found.add(int(process.name))
    return sorted(found)


def _link(path: Path) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def wait_for(predicate: Callable[[], T | None], timeout_s: float) -> T | None:
    """Calls ``predicate`` until it returns something; None when ``timeout_s`` passed without."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = predicate()
        if value is not None or time.monotonic() >= deadline:
            return value
        time.sleep(_POLL_S)
