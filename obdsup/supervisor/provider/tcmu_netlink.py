"""The socket to the kernel's generic netlink family TCM-USER, and the kernel's side of it.

One thread reads; any thread answers. Two listeners would both answer every message, so there is
one per host: the lock of a file that only root can open, gone with its holder, keeps a second one
out. (The name of an abstract socket is anybody's to take.)
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from pyroute2.netlink import CTRL_CMD_GETFAMILY, GENL_ID_CTRL, NLM_F_REQUEST, ctrlmsg

from obdsup.errors import AlreadyServed, ProviderError
from obdsup.supervisor.provider.kernel_files import KernelRoots
from obdsup.supervisor.provider.tcmu_message import (
    decode_notice,
    encode_answer,
    encode_set_features,
    split_messages,
)
from obdsup.supervisor.provider.tcmu_notice import Notice

__all__ = [
    "NoticesLost",
    "TcmuNetlink",
    "fail_pending_requests",
    "set_blocked",
    "take_only_listener",
]

FAMILY, GROUP = "TCM-USER", "config"
RECEIVE_BUFFER_BYTES = 4 << 20  # the default overflows at about 50 devices at once
ONLY_LISTENER = Path("/run/obdsup.tcm-user.lock")
_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP = 270, 1
_SO_RCVBUFFORCE = 33
_NETLINK_GENERIC = 16
_NLMSG_ERROR = 2
_DATAGRAM_BYTES = 64 << 10
_ANSWERS_S = 5.0


class NoticesLost(Exception):
    """The receive buffer overflowed: look at what is there."""


class TcmuNetlink:
    """Joined to the group when made.

    Raises:
        AlreadyServed: another supervisor listens.
        ProviderError: the kernel has no such family, or refused.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sequence = 0
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, take_only_listener(ONLY_LISTENER))
            try:
                # Answers have a socket of their own: acknowledgements and notices never mix.
                self._notices = undo.enter_context(_generic_socket())
                self._answers = undo.enter_context(_generic_socket())
                self._notices.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)
                self._answers.settimeout(_ANSWERS_S)
                self._family, self.group = self._find_family()
                self._notices.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, self.group)
            except OSError as error:
                raise ProviderError(f"netlink family {FAMILY}: {error.strerror}") from error
            self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            undo.callback(os.close, self._wake_read)
            undo.callback(os.close, self._wake_write)
            self.close = undo.pop_all().close  # after ``read`` has ended

    def others(self, roots: KernelRoots) -> set[int]:
        """Netlink addresses of the group's other members, as /proc shows them."""
        found = set()
        with contextlib.suppress(OSError):
            for line in (roots.proc / "net" / "netlink").read_text().splitlines()[1:]:
                _, protocol, port, groups, *_ = line.split()
                is_member = self.group > 32 or int(groups, 16) >> (self.group - 1) & 1
                if protocol == str(_NETLINK_GENERIC) and is_member:
                    found.add(int(port))
        return found - {self._notices.getsockname()[0], self._answers.getsockname()[0]}

    def announce(self) -> None:
        """Tells the kernel to wait for our answers."""
        self._ask(lambda sequence: encode_set_features(self._family, sequence))

    def read(self) -> Iterator[Notice]:
        """Notices as they come, until ``stop``.

        Raises:
            NoticesLost: some did not fit into the buffer; call again to go on.
            ProviderError: one that can not be understood; call again to go on.
        """
        poll = select.poll()
        for fd in (self._notices.fileno(), self._wake_read):
            poll.register(fd, select.POLLIN)
        while self._wake_read not in dict(poll.poll()):
            try:
                data, (sender, _) = self._notices.recvfrom(_DATAGRAM_BYTES)
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    raise NoticesLost from error
                raise
            if sender != 0:
                continue  # only the kernel is port 0
            for kind, _, message in split_messages(data):
                notice = decode_notice(message) if kind == self._family else None
                if notice is not None:
                    yield notice

    def answer(self, notice: Notice, status: int) -> None:
        """Lets go on who waits for the notice's answer.

        Raises:
            ProviderError: nobody waits for it.
        """
        self._ask(lambda sequence: encode_answer(self._family, sequence, notice, status))

    def stop(self) -> None:
        """Ends ``read``; from any thread."""
        os.write(self._wake_write, b"s")

    def _ask(self, encode: Callable[[int], bytes]) -> None:
        with self._lock:
            self._sequence += 1
            self._answers.send(encode(self._sequence))
            code, _ = self._receive()
        if code:
            raise ProviderError(f"{FAMILY}: {os.strerror(-code)}", errno=-code)

    def _receive(self) -> tuple[int, bytes]:
        """(error code, message) of the next message that belongs to the last request."""
        while True:
            for kind, sequence, message in split_messages(self._answers.recv(_DATAGRAM_BYTES)):
                if sequence != self._sequence:
                    continue
                if kind == _NLMSG_ERROR:
                    return struct.unpack_from("=i", message, 16)[0], message
                return 0, message

    def _find_family(self) -> tuple[int, int]:
        request = ctrlmsg()
        request["cmd"], request["version"] = CTRL_CMD_GETFAMILY, 1
        request["attrs"] = [("CTRL_ATTR_FAMILY_NAME", FAMILY)]
        request["header"]["type"], request["header"]["flags"] = GENL_ID_CTRL, NLM_F_REQUEST
        request["header"]["sequence_number"] = self._sequence
        request.encode()
        self._answers.send(bytes(request.data))
        code, message = self._receive()
        if code:
            raise ProviderError(
                f"the kernel has no netlink family {FAMILY}", hint="modprobe target_core_user"
            )
        answer = ctrlmsg(message)
        answer.decode()
        for group in answer.get_attr("CTRL_ATTR_MCAST_GROUPS") or ():
            if group.get_attr("CTRL_ATTR_MCAST_GRP_NAME") == GROUP:
                return int(answer.get_attr("CTRL_ATTR_FAMILY_ID")), int(
                    group.get_attr("CTRL_ATTR_MCAST_GRP_ID")
                )
        raise ProviderError(f"netlink family {FAMILY} has no group {GROUP}")


def _generic_socket() -> socket.socket:
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_GENERIC)
    made.bind((0, 0))
    return made


def take_only_listener(path: Path) -> int:
    """The locked file's fd, the caller's: the lock goes with it, or with the process.

    Raises:
        AlreadyServed: another process holds it.
        ProviderError: the file can not be made.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        fd = os.open(path, flags, 0o600)
    except OSError as error:
        raise ProviderError(f"lock {path}: {error.strerror}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise AlreadyServed(
            "another obdsup supervisor serves the devices made in configfs",
            hint="only one per host can",
        ) from None
    return fd


def set_blocked(roots: KernelRoots, *, is_blocked: bool) -> None:
    """While blocked, a request that needs an answer fails with EAGAIN, which its maker repeats,
    instead of waiting for a listener that is away.
    """
    _parameters(roots).joinpath("block_netlink").write_text("1" if is_blocked else "0")


def fail_pending_requests(roots: KernelRoots) -> None:
    """Ends with EINTR every request that waits for an answer: its notice was lost.

    Raises:
        ProviderError: the kernel refused.
    """
    try:
        set_blocked(roots, is_blocked=True)
        try:
            _parameters(roots).joinpath("reset_netlink").write_text("1")
        finally:
            set_blocked(roots, is_blocked=False)
    except OSError as error:
        raise ProviderError(f"{_parameters(roots)}: {error.strerror}") from error


def _parameters(roots: KernelRoots) -> Path:
    return roots.sys / "module" / "target_core_user" / "parameters"
