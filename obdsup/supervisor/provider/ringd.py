"""One obdsup-ringd process: start it, find it again by its socket, ask it things, end it.

A ringd outlives every supervisor. It is known by its control socket alone: who answers there is the
ringd of that device, and its pid comes from the socket's credentials. Exit codes are not looked at,
because the supervisor's main loop may reap any child before the thread that started it.
"""

from __future__ import annotations

import array
import contextlib
import os
import select
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from obdsup.errors import ProviderError
from obdsup.supervisor.provider.base import RingHandle

__all__ = ["RINGD_PATH", "Ringd", "RingdStat"]

RINGD_PATH = Path(__file__).resolve().parents[2] / "_bin" / "obdsup-ringd"

_ANSWER_MAX_BYTES = 65536
_ANSWER_S = 10.0
_START_S = 20.0
_END_S = 10.0
_RING_FDS = 3


@dataclass(frozen=True, slots=True)
class RingdStat:
    """What a ringd says of its ring. ``values`` holds every key=value pair as text."""

    values: dict[str, str]
    is_broken: bool
    broken_reason: str

    def number(self, key: str) -> int:
        """A counter by name.

        Raises:
            ProviderError: this ringd does not report it.
        """
        try:
            return int(self.values[key])
        except (KeyError, ValueError) as error:
            raise ProviderError(f"obdsup-ringd reports no number {key!r}") from error


class Ringd:
    """The ringd that has, or shall have, the control socket ``socket_path``.

    Every method raises ``ProviderError`` when nobody answers or the answer is a refusal.
    """

    def __init__(self, socket_path: Path) -> None:
        self.socket_path = socket_path

    def start(
        self, binary: Path, front: str, options: list[str], log: Path, remembers: dict[str, str]
    ) -> None:
        """Starts a detached ringd and returns once it serves. Fine when one serves already.

        ``remembers`` is added to its environment, where it can be read as long as it lives.
        """
        if self.is_alive():
            return
        command = [str(binary), front, "--socket", str(self.socket_path), "--detach"]
        try:
            process = subprocess.Popen(
                [*command, "--log", str(log), *options],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                cwd="/",
                env={**os.environ, **remembers},
                start_new_session=True,
            )
        except OSError as error:
            raise ProviderError(f"{binary}: {error.strerror}", hint="run make setup") from error
        with process:
            try:
                _, said = process.communicate(timeout=_START_S)
            except subprocess.TimeoutExpired:
                process.kill()
                said = b"it was not ready in time"
        if not self.is_alive():
            text = said.decode(errors="replace").strip().replace("\n", "; ")
            raise ProviderError(f"obdsup-ringd for {self.socket_path} did not start: {text}")

    def is_alive(self) -> bool:
        """Whether a ringd answers."""
        try:
            self.stat()
        except ProviderError:
            return False
        return True

    def pid(self) -> int:
        """The process that listens on the socket."""
        with self._connected() as link:
            size = struct.calcsize("3i")
            credentials = link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
            pid: int = struct.unpack("3i", credentials)[0]
            return pid

    def open_ring(self) -> RingHandle:
        """The ring's fds; the caller owns the handle."""
        with self._connected() as link:
            link.send(b"fds")
            space = socket.CMSG_SPACE(16 * array.array("i").itemsize)
            data, ancillary, _, _ = link.recvmsg(_ANSWER_MAX_BYTES, space, socket.MSG_CMSG_CLOEXEC)
        numbers = array.array("i")
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers.frombytes(payload[: len(payload) - len(payload) % numbers.itemsize])
        text = data.decode(errors="replace")
        handle = RingHandle("memfd", list(numbers), 0)
        if not text.startswith("ok map_bytes=") or len(handle.fds) != _RING_FDS:
            handle.close()
            raise ProviderError(f"obdsup-ringd at {self.socket_path} gave no ring: {text!r}")
        handle.map_bytes = int(text.removeprefix("ok map_bytes="))
        return handle

    def stat(self) -> RingdStat:
        """State and counters of the ring."""
        head, _, reason = self.ask("stat").partition(" broken_reason=")
        values = dict(pair.split("=", 1) for pair in head.split() if "=" in pair)
        return RingdStat(values, values.get("broken") == "1", reason)

    def gaps_ns(self) -> list[tuple[int, int]]:
        """Gaps between completions since last asked: [start, end) in CLOCK_MONOTONIC."""
        lines = self.ask("gaps").splitlines()[1:]
        return [(int(start), int(end)) for start, end in (line.split() for line in lines)]

    def reset(self) -> None:
        """Empties the ring; what was in flight is sent again. Nobody may be serving."""
        self.ask("reset")

    def finish(self) -> None:
        """Tells the load front end to end its work."""
        self.ask("finish")

    def stop(self, *, is_forced: bool = False) -> None:
        """Ends the ringd and returns once it is gone. Fine when there is none.

        A ringd that does not end when forced is killed: it holds nothing that lasts.
        """
        try:
            pid = self.pid()
        except ProviderError:
            return
        pidfd = _open_pidfd(pid)
        if pidfd is None:
            return
        try:
            self.ask("stop force" if is_forced else "stop")
            if _has_ended(pidfd, _END_S):
                return
            if not is_forced:
                raise ProviderError(
                    f"obdsup-ringd {pid} did not end", hint=f"see its log beside {self.socket_path}"
                )
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            _has_ended(pidfd, _END_S)
        finally:
            os.close(pidfd)

    def ask(self, request: str) -> str:
        """Sends one request and returns its answer, which starts with "ok"."""
        with self._connected() as link:
            try:
                link.send(request.encode())
                text = link.recv(_ANSWER_MAX_BYTES).decode(errors="replace")
            except OSError as error:
                raise ProviderError(
                    f"obdsup-ringd at {self.socket_path} did not answer {request!r}: {error}"
                ) from error
        if not text.startswith("ok"):
            refusal = text.removeprefix("err ") or "it closed the connection"
            raise ProviderError(f"obdsup-ringd refused {request!r}: {refusal}")
        return text

    @contextlib.contextmanager
    def _connected(self) -> Iterator[socket.socket]:
        link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        directory = -1
        try:
            link.settimeout(_ANSWER_S)
            try:
                # By way of the directory: a socket address holds 107 bytes only.
                directory = os.open(self.socket_path.parent, os.O_PATH | os.O_CLOEXEC)
                link.connect(f"/proc/self/fd/{directory}/{self.socket_path.name}")
            except OSError as error:
                raise ProviderError(
                    f"no obdsup-ringd at {self.socket_path}: {error.strerror or error}"
                ) from error
            yield link
        finally:
            if directory >= 0:
                os.close(directory)
            link.close()


def _open_pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def _has_ended(pidfd: int, timeout_s: float) -> bool:
    """A pidfd is readable once its process ended, reaped or not."""
    ended = select.poll()
    ended.register(pidfd, select.POLLIN)
    return bool(ended.poll(timeout_s * 1000))
