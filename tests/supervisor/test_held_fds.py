"""Fds that come with the process: by which environment, whose they are, what systemd is told."""

from __future__ import annotations

import array
import os
import socket
from pathlib import Path

import pytest

from obdsup.supervisor.held_fds import HeldFds


def pipe_fds(count: int) -> list[int]:
    """Open fds that the test may lose."""
    fds: list[int] = []
    while len(fds) < count:
        fds += os.pipe()
    for fd in fds[count:]:
        os.close(fd)
    return fds[:count]


def test_what_is_passed_on_comes_back_by_name() -> None:
    first, environment = HeldFds({}), {}
    fds = pipe_fds(5)
    first.keep("lock", fds[0])
    first.store_device("a-0-uio", fds[1:4], "memfd", 4096, fds[4])
    first.pass_on(environment)
    assert all(os.get_inheritable(fd) for fd in fds)
    second = HeldFds(environment)
    assert (second.is_reexec, environment) == (True, {})
    assert not any(os.get_inheritable(fd) for fd in fds)
    assert second.take("lock") == fds[0]
    assert second.take("lock") is None
    held = second.take_device("a-0-uio")
    assert held is not None
    assert (held.ring_fds, held.journal_fd) == (fds[1:4], fds[4])
    assert (held.kind, held.map_bytes) == ("memfd", 4096)
    assert second.take_device("a") is None
    held.close()
    os.close(fds[0])


def test_an_exec_that_failed_leaves_no_fd_to_children() -> None:
    held, environment = HeldFds({}), {}
    (fd,) = pipe_fds(1)
    held.keep("lock", fd)
    held.pass_on(environment)
    held.exec_failed(environment)
    assert environment == {}
    assert not os.get_inheritable(fd)
    os.close(fd)


@pytest.mark.parametrize(
    "environment",
    [
        {"OBDSUP_HELD_FDS": "1:lock=3"},
        {"LISTEN_PID": "1", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "journal-a:ring-a-0-uio-4096"},
    ],
)
def test_what_is_meant_for_another_process_is_not_taken(environment: dict[str, str]) -> None:
    held = HeldFds(environment)
    assert not held.is_reexec
    assert held.drop_rest() == []
    assert environment == {}


def test_an_incomplete_device_is_closed_not_used() -> None:
    fds = pipe_fds(2)
    text = f"{os.getpid()}:ring-a-0-memfd-64={fds[0]}:ring-a-2-memfd-64={fds[1]}"
    assert HeldFds({"OBDSUP_HELD_FDS": text}).take_device("a") is None
    for fd in fds:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


def test_systemd_gets_and_loses_a_devices_fds(tmp_path: Path) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(60)
        held = HeldFds({"NOTIFY_SOCKET": str(path)})
        fds = pipe_fds(2)
        held.store_device("a", fds[:1], "uio", 4096, fds[1])
        stored = {}
        for _ in range(4):
            text, ancillary, _, _ = manager.recvmsg(4096, socket.CMSG_SPACE(64))
            lines = dict(line.split("=", 1) for line in text.decode().split("\n"))
            if "FDSTORE" in lines:
                assert lines["FDPOLL"] == "0"
                number = array.array("i", ancillary[0][2])[0]
                stored[lines["FDNAME"]] = os.fstat(number).st_ino
                os.close(number)
        inodes = [os.fstat(fd).st_ino for fd in fds]
        assert stored == {"ring-a-0-uio-4096": inodes[0], "journal-a": inodes[1]}
        held.forget_device("a")
        removed = {manager.recv(4096).decode() for _ in range(2)}
        assert removed == {f"FDSTOREREMOVE=1\nFDNAME={name}" for name in stored}
        for fd in fds:
            os.close(fd)
