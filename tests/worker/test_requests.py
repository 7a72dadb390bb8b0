"""Requests are checked field by field; nonsense is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from obdsup.errors import ConfigError, ControlError
from obdsup.state.messages import Packet
from obdsup.worker.requests import parse

IMAGE = {"lowers": ["/a", "/b"], "upper": None}
SERVE: dict[str, Any] = {
    "op": "serve",
    "device": "d",
    "uuid": "00112233-4455-6677-8899-aabbccddeeff",
    "image": IMAGE,
    "generation": 7,
    "mode": "recover",
    "boot_id": "ffeeddccbbaa99887766554433221100",
    "ring": {"kind": "memfd", "map_bytes": 4096},
}


def packet(body: dict[str, Any], fd_count: int = 0) -> Packet:
    return Packet(body, list(range(1000, 1000 + fd_count)))


def test_serve_is_read_in_full() -> None:
    request = parse(packet(SERVE, 4))
    assert request.serve is not None
    assert request.serve.uuid.hex() == "00112233445566778899aabbccddeeff"
    assert request.serve.boot_id == bytes.fromhex("ffeeddccbbaa99887766554433221100")
    assert (request.serve.generation, request.serve.mode) == (7, "recover")
    assert request.image is not None
    assert request.image.lowers == ["/a", "/b"]
    assert request.image.upper is None
    assert request.serve.spec == {}


@pytest.mark.parametrize(
    "change",
    [
        {"device": ""},
        {"device": "a/b"},
        {"device": 5},
        {"device": "x" * 129},
        {"uuid": "0011"},
        {"uuid": None},
        {"uuid": "zz112233-4455-6677-8899-aabbccddeeff"},
        {"generation": 0},
        {"generation": True},
        {"generation": "7"},
        {"generation": 1 << 64},
        {"mode": "resume"},
        {"boot_id": ""},
        {"ring": None},
        {"spec": []},
        {"spec": {"image": "x" * 40_000}},
        {"ring": {"kind": "pipe", "map_bytes": 4096}},
        {"ring": {"kind": "memfd", "map_bytes": 0}},
        {"ring": {"kind": "memfd", "map_bytes": 1.5}},
        {"image": None},
        {"image": {"lowers": 5}},
        {"image": {"lowers": ["relative"]}},
        {"image": {"lowers": ["/a\0b"]}},
        {"image": {"lowers": [None]}},
        {"image": {"lowers": []}},
        {"image": {"lowers": ["/a"] * 256}},
        {"image": {"lowers": [], "upper": {"data": "/d"}}},
        {"image": {"lowers": [], "upper": ["/d", "/i"]}},
    ],
    ids=str,
)
def test_a_wrong_field_is_a_config_error(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        parse(packet({**SERVE, **change}, 4))


@pytest.mark.parametrize("fd_count", [0, 1, 3, 5])
def test_serve_needs_exactly_the_fds_of_its_ring_and_the_journal(fd_count: int) -> None:
    with pytest.raises(ControlError, match=f"{fd_count} fds, expected 4"):
        parse(packet(SERVE, fd_count))


def test_fds_with_a_request_that_takes_none_are_refused() -> None:
    with pytest.raises(ControlError):
        parse(packet({"op": "hello"}, 1))


@pytest.mark.parametrize("op", ["", "reboot", "HELLO"])
def test_unknown_operations_are_refused_by_name(op: str) -> None:
    with pytest.raises(ControlError, match="unknown operation"):
        parse(packet({"op": op}))


@pytest.mark.parametrize("timeout_ms", [-1, None, 10**12, "5"])
def test_drain_needs_a_bounded_timeout(timeout_ms: object) -> None:
    with pytest.raises(ConfigError):
        parse(packet({"op": "drain", "device": "d", "timeout_ms": timeout_ms}))


@pytest.mark.parametrize("is_last", [True, False])
def test_drain_says_whether_anybody_takes_over(is_last: bool) -> None:
    asked = {"op": "drain", "device": "d", "timeout_ms": 5}
    assert parse(packet({**asked, "is_last": is_last})).is_last is is_last
    assert not parse(packet(asked)).is_last
    with pytest.raises(ConfigError):
        parse(packet({**asked, "is_last": 1}))


def test_forget_names_a_device_or_all_others() -> None:
    assert parse(packet({"op": "forget", "device": "a"}, 0)).device == "a"
    assert parse(packet({"op": "forget", "others": True}, 0)).of_others
    assert not parse(packet({"op": "forget", "device": "a"}, 0)).of_others
    with pytest.raises(ConfigError):
        parse(packet({"op": "forget"}, 0))
    with pytest.raises(ConfigError):
        parse(packet({"op": "forget", "others": 1}, 0))


def test_options_are_beside_the_other_fields_in_version_1() -> None:
    body = {**SERVE, "v": 1, "blamed": True, "poison_after": 5, "of_a_later_release": 1}
    order = parse(packet(body, 4)).serve
    assert order is not None
    assert (order.is_blamed, order.poison_after) == (True, 5)


def test_options_have_their_place_in_version_2() -> None:
    body = {**SERVE, "v": 2, "options": {"blamed": True, "poison_after": 5}}
    order = parse(packet(body, 4)).serve
    assert order is not None
    assert (order.is_blamed, order.poison_after) == (True, 5)


@pytest.mark.parametrize(
    "more", [{"options": {"of_a_later_release": 1}}, {"blamed": True}, {"options": [1]}]
)
def test_an_option_that_is_not_known_is_refused_in_version_2(more: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="options"):
        parse(packet({**SERVE, "v": 2, **more}, 4))
