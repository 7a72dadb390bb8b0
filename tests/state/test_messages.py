"""Versions of the worker control protocol: what a release speaks, agrees on, refuses by name."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator

import pytest

from obdsup.errors import ControlError
from obdsup.state import messages
from obdsup.supervisor.worker_link import in_form_of

# As a release of version 1 sends and answers them: never changed.
HELLO_1 = b'{"v":1,"id":1,"op":"hello"}'
HELLO_ANSWER_1 = b'{"v":1,"id":1,"ok":true,"pid":7,"protocol":1,"devices":[]}'
SERVE_1 = {"device": "a", "mode": "recover", "blamed": True, "poison_after": 5}
SERVE_2 = {"device": "a", "mode": "recover", "options": {"blamed": True, "poison_after": 5}}


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    yield a, b
    a.close()
    b.close()


Pair = tuple[socket.socket, socket.socket]


def received(pair: Pair, raw: bytes) -> messages.Packet:
    pair[0].send(raw)
    packet = messages.receive(pair[1])
    assert packet is not None
    return packet


def test_a_release_speaks_its_version_and_the_one_before(pair: Pair) -> None:
    newest = messages.PROTOCOL_VERSION
    assert messages.oldest_version() == newest - 1
    for version in (newest - 1, newest):
        messages.send(pair[0], {"op": "stop"}, None, version)
        packet = messages.receive(pair[1])
        assert packet is not None
        assert packet.version == version


@pytest.mark.parametrize("version", [0, 3, 99, True, "2", None, 2.0])
def test_another_version_is_refused_by_name_and_its_fds_are_closed(
    pair: Pair, version: object
) -> None:
    fd = os.open("/dev/null", os.O_RDONLY)
    before = len(os.listdir("/proc/self/fd"))
    raw = json.dumps({"v": version, "op": "stop"}).encode()
    socket.send_fds(pair[0], [raw], [fd])
    with pytest.raises(ControlError, match="this release speaks 1 to 2") as caught:
        messages.receive(pair[1])
    assert repr(version) in str(caught.value)
    assert caught.value.fields["code"] == messages.UNKNOWN_VERSION
    assert len(os.listdir("/proc/self/fd")) == before
    os.close(fd)


def test_a_hello_of_version_1_is_understood_by_every_release(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages, "PROTOCOL_VERSION", 7)
    assert received(pair, HELLO_1).version == messages.HELLO_VERSION
    assert received(pair, HELLO_ANSWER_1).body["pid"] == 7
    with pytest.raises(ControlError, match="control protocol 1, this release speaks 6 to 7"):
        messages.agree(received(pair, HELLO_ANSWER_1).body)
    with pytest.raises(ControlError, match="control protocol 1, "):
        received(pair, b'{"v":1,"id":1,"op":"stop"}')


@pytest.mark.parametrize(
    ("ours", "theirs", "agreed"),
    [(1, 1, 1), (2, 1, 1), (1, 2, 1), (2, 2, 2), (3, 2, 2), (2, 3, 2), (9, 9, 9), (3, 1, 0),
     (1, 3, 0), (9, 2, 0)],
)  # fmt: skip
def test_the_newest_version_that_both_speak_is_used(
    monkeypatch: pytest.MonkeyPatch, ours: int, theirs: int, agreed: int
) -> None:
    monkeypatch.setattr(messages, "PROTOCOL_VERSION", theirs)
    said = messages.announcement()
    monkeypatch.setattr(messages, "PROTOCOL_VERSION", ours)
    if agreed:
        assert messages.agree(said) == agreed
        return
    with pytest.raises(ControlError, match=f" to {theirs}|{theirs}, this release speaks"):
        messages.agree(said)


@pytest.mark.parametrize("said", [{"protocol": "2"}, {"protocol": True}, {"protocol": 9.5}])
def test_an_announcement_that_is_none_is_refused(said: dict[str, object]) -> None:
    with pytest.raises(ControlError, match="this release speaks"):
        messages.agree(said)


def test_who_announces_nothing_speaks_version_1() -> None:
    assert messages.agree({}) == 1
    assert messages.agree({"protocol": 1}) == 1


def test_a_serve_has_its_options_where_the_version_has_them() -> None:
    assert in_form_of(1, "serve", SERVE_2) == SERVE_1
    assert in_form_of(2, "serve", SERVE_2) == SERVE_2
    assert in_form_of(1, "drain", {"device": "a"}) == {"device": "a"}
