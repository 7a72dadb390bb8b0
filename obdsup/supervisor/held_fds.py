"""Fds that outlive this program: the lock, the control socket, rings and journals.

Two keepers, one form. Our own re-exec keeps the process and so its fds: OBDSUP_HELD_FDS says which
are whose. systemd's fd store keeps duplicates while no supervisor lives: they come back as
LISTEN_FDS with LISTEN_FDNAMES (sd_listen_fds(3)). Both name the process they are meant for, so that
a child that inherits the environment takes nothing.

| name                         | fd                                                                |
|------------------------------|-------------------------------------------------------------------|
| lock                         | RUN/supervisor.lock, locked; re-exec only: systemd's copy would   |
|                              | keep the lock held without a holder                               |
| control                      | RUN/obdsup.sock, listening; re-exec only                          |
| journal-NAME                 | a device's in-flight journal                                      |
| ring-NAME-INDEX-KIND-BYTES   | fd number INDEX of a device's ring, its kind and mapping's length |
"""

from __future__ import annotations

import array
import contextlib
import logging
import os
import re
import socket
import threading
from collections.abc import MutableMapping
from dataclasses import dataclass

__all__ = ["HeldDevice", "HeldFds"]

FIRST_PASSED_FD = 3  # SD_LISTEN_FDS_START
FDS_ENVIRONMENT = "OBDSUP_HELD_FDS"  # PID:NAME=FD:NAME=FD...
_RING_NAME = re.compile(r"ring-(.+)-(\d+)-([a-z]+)-(\d+)")
log = logging.getLogger(__name__)


@dataclass(slots=True)
class HeldDevice:
    """What was held of one device; whoever takes it owns the fds."""

    journal_fd: int
    ring_fds: list[int]
    kind: str
    map_bytes: int

    def close(self) -> None:
        """Closes all of it."""
        for fd in (self.journal_fd, *self.ring_fds):
            os.close(fd)


class HeldFds:
    """What came with the process, and what is to be kept. Safe from any thread.

    Args:
        environment: where passed fds are named; the names are removed from it.
    """

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        self._lock = threading.Lock()
        self._passed = _from_reexec(environment)
        self.is_reexec = bool(self._passed)
        self._passed.update(_from_systemd(environment))
        self._kept: dict[str, int] = {}  # fds of ours, owned by others
        self._socket_path = environment.get("NOTIFY_SOCKET", "")

    # -- what came ---------------------------------------------------------------------------
    def take(self, name: str) -> int | None:
        """An fd that was passed, close-on-exec, now the caller's; None: there is none."""
        with self._lock:
            return self._passed.pop(name, None)

    def take_device(self, device: str) -> HeldDevice | None:
        """What was passed of a device, now the caller's; None unless it is complete."""
        with self._lock:
            journal = self._passed.pop(f"journal-{device}", None)
            rings = {}
            for name in list(self._passed):
                match = _RING_NAME.fullmatch(name)
                if match and match[1] == device:
                    rings[int(match[2])] = (self._passed.pop(name), match[3], int(match[4]))
        fds = [rings[index][0] for index in sorted(rings)]
        if journal is None or sorted(rings) != list(range(len(rings))) or not rings:
            for fd in [*fds, *([] if journal is None else [journal])]:
                os.close(fd)
            return None
        _, kind, map_bytes = rings[0]
        return HeldDevice(journal, fds, kind, map_bytes)

    def drop_rest(self) -> list[str]:
        """Closes what nobody took, here and in systemd's store; returns the names."""
        with self._lock:
            rest, self._passed = self._passed, {}
        for name, fd in rest.items():
            os.close(fd)
            self._tell(f"FDSTOREREMOVE=1\nFDNAME={name}")
        return sorted(rest)

    # -- what is to be kept ------------------------------------------------------------------
    def keep(self, name: str, fd: int) -> None:
        """Keeps an fd, which stays the caller's, through a re-exec only."""
        with self._lock:
            self._kept[name] = fd

    def store_device(
        self, device: str, ring_fds: list[int], kind: str, map_bytes: int, journal_fd: int
    ) -> None:
        """Keeps a device's fds, which stay the caller's, until ``forget_device``."""
        named = {f"journal-{device}": journal_fd}
        for index, fd in enumerate(ring_fds):
            named[f"ring-{device}-{index}-{kind}-{map_bytes}"] = fd
        with self._lock:
            stale = self._names_of(device) - named.keys()
            for name in stale:
                del self._kept[name]
            changed = {name: fd for name, fd in named.items() if self._kept.get(name) != fd}
            self._kept.update(named)
        for name in stale | changed.keys():
            self._tell(f"FDSTOREREMOVE=1\nFDNAME={name}")
        for name, fd in changed.items():
            self._tell(f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", fd)

    def forget_device(self, device: str) -> None:
        """Keeps them no more; to be called before they are closed."""
        with self._lock:
            names = self._names_of(device)
            for name in names:
                del self._kept[name]
        for name in names:
            self._tell(f"FDSTOREREMOVE=1\nFDNAME={name}")

    def _names_of(self, device: str) -> set[str]:
        found = {f"journal-{device}"} & self._kept.keys()
        for name in self._kept:
            match = _RING_NAME.fullmatch(name)
            if match and match[1] == device:
                found.add(name)
        return found

    # -- re-exec -----------------------------------------------------------------------------
    def pass_on(self, environment: MutableMapping[str, str]) -> None:
        """Makes everything kept survive an exec that follows at once, in this thread.

        Nobody may start another program meanwhile: it would inherit the lock.
        """
        with self._lock:
            parts = [str(os.getpid())]
            for name, fd in self._kept.items():
                with contextlib.suppress(OSError):  # closed meanwhile: its owner ended
                    os.set_inheritable(fd, True)
                    parts.append(f"{name}={fd}")
        environment[FDS_ENVIRONMENT] = ":".join(parts)

    def exec_failed(self, environment: MutableMapping[str, str]) -> None:
        """Undoes ``pass_on``."""
        environment.pop(FDS_ENVIRONMENT, None)
        with self._lock:
            for fd in self._kept.values():
                with contextlib.suppress(OSError):
                    os.set_inheritable(fd, False)

    def _tell(self, text: str, fd: int | None = None) -> None:
        """To systemd, if there is one. One message per fd: a name belongs to all fds of one."""
        if not self._socket_path:
            return
        address = self._socket_path
        if address.startswith("@"):
            address = "\0" + address[1:]
        ancillary = []
        if fd is not None:
            numbers = array.array("i", [fd])
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)]
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(5.0)
                sock.sendmsg([text.encode()], ancillary, 0, address)
        except OSError as error:
            log.warning("held_fds.not_told text=%r reason=%s", text, error)


def _from_reexec(environment: MutableMapping[str, str]) -> dict[str, int]:
    pid, *parts = environment.pop(FDS_ENVIRONMENT, "").split(":")
    if pid != str(os.getpid()):
        return {}
    found: dict[str, int] = {}
    for part in parts:
        name, _, number = part.rpartition("=")
        _own(found, name, number)
    return found


def _from_systemd(environment: MutableMapping[str, str]) -> dict[str, int]:
    pid = environment.pop("LISTEN_PID", "")
    count = environment.pop("LISTEN_FDS", "0")
    names = environment.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdigit():
        return {}
    found: dict[str, int] = {}
    for offset in range(int(count)):
        name = names[offset] if offset < len(names) else "unknown"
        _own(found, name, str(FIRST_PASSED_FD + offset))
    return found


def _own(found: dict[str, int], name: str, number: str) -> None:
    """The newest of a name counts; children of ours do not inherit it."""
    try:
        os.set_inheritable(int(number), False)
    except (OSError, ValueError) as error:
        log.warning("held_fds.unusable name=%s fd=%s reason=%s", name, number, error)
        return
    if name in found:
        os.close(found[name])
    found[name] = int(number)
