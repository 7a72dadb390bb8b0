"""The supervisor's side of the worker protocol, where the worker is slow to accept."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from obdsup.errors import WorkerLost
from obdsup.state import messages
from obdsup.supervisor.worker_link import WorkerLink


def full_listener(path: Path) -> tuple[socket.socket, list[socket.socket]]:
    """A listener whose queue is full; the connections that fill it."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(path))
    listener.listen(0)
    waiting = []
    while True:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        waiting.append(sock)
        try:
            sock.connect(str(path))
        except BlockingIOError:
            return listener, waiting


def test_a_full_queue_of_connections_is_waited_for(tmp_path: Path) -> None:
    listener, waiting = full_listener(tmp_path / "s")
    answers: list[object] = []
    link = WorkerLink("w1", str(tmp_path / "s"))
    asking = threading.Thread(target=lambda: answers.append(link.call("hello", 30).body["pid"]))
    asking.start()
    for sock in waiting:
        sock.close()
    packet = None
    while packet is None:  # those that waited before have gone
        accepted, _ = listener.accept()
        packet = messages.receive(accepted)
        if packet is not None:
            messages.send(accepted, {"id": packet.body["id"], "ok": True, "pid": 7})
        accepted.close()
    asking.join(30)
    assert answers == [7]
    listener.close()
    link.close()


def test_a_queue_that_stays_full_is_a_worker_that_does_not_answer(tmp_path: Path) -> None:
    listener, waiting = full_listener(tmp_path / "s")
    with pytest.raises(WorkerLost) as caught:
        WorkerLink("w1", str(tmp_path / "s")).call("hello", 0.05)
    assert caught.value.fields["is_timeout"] is True
    for sock in (*waiting, listener):
        sock.close()
