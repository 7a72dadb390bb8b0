"""A folder seen through a file system that can be told to be slow, silent or broken.

A worker opens a layer below the mount point; the file itself lies in the source folder. Rules name
a file without its folders; "*" is every file.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import subprocess
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from chaos.rig.kernel_module import need_node
from chaos.rig.node import wait_until
from chaos.rig.problem import REPO, RigError, run

__all__ = ["FaultCounts", "FaultFs"]

NATIVE = REPO / "native"
PROGRAM = NATIVE / "build" / "release" / "faultfs" / "faultfs"
START_TIMEOUT_S = 30.0
ANSWER_TIMEOUT_S = 30.0


class FaultCounts(NamedTuple):
    """Reads since the mount, and what was done to them; ``holding`` are held right now."""

    reads: int
    delayed: int
    failed: int
    held: int
    holding: int


class FaultFs:
    """One mount; a context manager. Leaving it clears all rules, unmounts, ends the program.

    Args:
        source: the folder that is shown, read-only.
        folder: of this mount alone, made here: mount point ``folder/mnt``, control socket, log.
    """

    def __init__(self, source: Path, folder: Path) -> None:
        self.mount_point = folder / "mnt"
        self._source = source
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def __enter__(self) -> Self:
        """Mounts it.

        Raises:
            RigError: it could not be built or mounted; says why.
        """
        _build()
        need_node(Path("/dev/fuse"), "fuse")
        self.mount_point.mkdir(parents=True, exist_ok=True)
        control = self._folder / "control"
        control.unlink(missing_ok=True)
        with (self._folder / "faultfs.log").open("ab") as log:
            self._process = subprocess.Popen(
                [PROGRAM, self._source, self.mount_point, control],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            wait_until(lambda: self._connect(control), START_TIMEOUT_S, "the fault file system")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def delay(self, name: str, delay_ms: int) -> None:
        """Every read of the file takes at least this long."""
        self._order(f"delay {name} {delay_ms}")

    def fail(
        self, name: str, begin: int, end: int, *, times: int = 0, error: int = errno.EIO
    ) -> None:
        """Reads that touch bytes [begin, end) fail; ``times`` 0: until the rules are cleared."""
        self._order(f"fail {name} {begin} {end} {error} {times}")

    def hold(self, name: str) -> None:
        """Reads of the file are not answered until the rules are cleared."""
        self._order(f"hold {name}")

    def clear(self) -> None:
        """The file system is sound again; what was held is answered."""
        self._order("clear")

    def counts(self) -> FaultCounts:
        """What was done so far."""
        words = self._order("count").split()[1:]
        values = dict(word.split("=") for word in words)
        return FaultCounts(*(int(values[name]) for name in FaultCounts._fields))

    def _connect(self, path: Path) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            said = (self._folder / "faultfs.log").read_text(errors="replace")[-500:].strip()
            raise RigError(f"faultfs on {self._source} ended at once: {said}")
        if not path.exists() or not os.path.ismount(self.mount_point):
            return False
        control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        control.settimeout(ANSWER_TIMEOUT_S)
        try:
            control.connect(str(path))
        except OSError:
            control.close()
            return False
        self._control = control
        return True

    def _order(self, request: str) -> str:
        if self._control is None:
            raise RigError("the fault file system is not mounted")
        try:
            self._control.sendall(request.encode())
            answer = self._control.recv(1024).decode()
        except OSError as error:
            raise RigError(f"faultfs did not answer {request!r}: {error}") from error
        if not answer.startswith("ok"):
            raise RigError(f"faultfs refused {request!r}: {answer or 'connection closed'}")
        return answer

    def _end(self) -> None:
        process, self._process = self._process, None
        control, self._control = self._control, None
        try:
            if control is not None:
                control.settimeout(ANSWER_TIMEOUT_S)
                control.sendall(b"clear")
                control.recv(1024)
        except OSError:
            pass  # it is dead: what it held fails now
        finally:
            if control is not None:
                control.close()
        if os.path.ismount(self.mount_point):
            run(["umount", "--lazy", self.mount_point], what="unmount the fault file system")
        if process is not None:
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:  # a follower may keep a file open
                process.send_signal(signal.SIGKILL)
                process.wait()


def _build() -> None:
    """Makes the program (native/faultfs) unless it is newer than its sources."""
    sources = [*(NATIVE / "faultfs").glob("*.[ch]")]
    newest = max(path.stat().st_mtime for path in sources)
    if PROGRAM.is_file() and PROGRAM.stat().st_mtime >= newest:
        return
    with (NATIVE / "Makefile").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run(["make", "-s", "-C", NATIVE, "faultfs"], what="build native/faultfs")
