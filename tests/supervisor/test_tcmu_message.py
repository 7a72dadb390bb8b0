"""Messages of TCM-USER, as bytes put together here from target_core_user.h."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obdsup.errors import ProviderError
from obdsup.supervisor.provider.tcmu_message import (
    decode_notice,
    encode_answer,
    encode_set_features,
    split_messages,
)
from obdsup.supervisor.provider.tcmu_notice import Notice, NoticeKind, config_path

FAMILY = 0x1D
DEVICE, MINOR, PAD, DEV_CFG, DEV_SIZE, WRITECACHE, STATUS, DEVICE_ID, FEATURES = range(1, 10)
NAME = b"tcm-user/999999999/dev_7/overlaybd//var/snapshots/7/block/config.v1.json"
KIND = {NoticeKind.ADDED: 1, NoticeKind.REMOVED: 2, NoticeKind.RECONFIG: 3}


def attribute(number: int, value: bytes) -> bytes:
    return struct.pack("<HH", 4 + len(value), number) + value + b"\0" * (-len(value) % 4)


def message(command: int, *attributes: bytes) -> bytes:
    body = struct.pack("<BBH", command, 2, 0) + b"".join(attributes)
    return struct.pack("<IHHII", 16 + len(body), FAMILY, 0, 0, 0) + body


def event(command: int, name: bytes = NAME, *more: bytes) -> bytes:
    return message(
        command,
        attribute(DEVICE, name + b"\0"),
        attribute(MINOR, struct.pack("<I", 3)),
        attribute(DEVICE_ID, struct.pack("<I", 11)),
        *more,
    )


@pytest.mark.parametrize("kind", list(NoticeKind))
def test_events_are_read(kind: NoticeKind) -> None:
    notice = decode_notice(event(KIND[kind]))
    path = "overlaybd//var/snapshots/7/block/config.v1.json"
    assert notice == Notice(kind, 11, 999999999, "dev_7", path)
    assert config_path(notice.config) == "/var/snapshots/7/block/config.v1.json"


def test_resize_carries_the_size() -> None:
    size = attribute(DEV_SIZE, struct.pack("<Q", 1 << 36))
    notice = decode_notice(event(3, NAME, attribute(PAD, b""), size))
    assert notice is not None
    assert notice.size_bytes == 1 << 36


@pytest.mark.parametrize(
    ("config", "path"),
    [
        ("overlaybd//a/config.v1.json", "/a/config.v1.json"),
        ("overlaybd//a/config.v1.json;17", "/a/config.v1.json"),
        ("overlaybd/relative", "relative"),
        ("overlaybd/", ""),
        ("overlaybd-other//a", ""),
        ("obdsup//a", ""),
        ("", ""),
    ],
)
def test_only_overlaybd_configs_have_a_path(config: str, path: str) -> None:
    assert config_path(config) == path


def test_a_config_with_slashes_stays_whole() -> None:
    notice = decode_notice(event(1, b"tcm-user/0/d/overlaybd//a//b/c;x/y"))
    assert notice is not None
    assert notice.config == "overlaybd//a//b/c;x/y"


@pytest.mark.parametrize(
    "name", [b"", b"tcm-user/0/d", b"tcm-user/x/d/overlaybd//a", b"other/0/d/overlaybd//a"]
)
def test_a_name_of_another_form_is_refused(name: bytes) -> None:
    with pytest.raises(ProviderError, match="tcm-user/HBA/NAME"):
        decode_notice(event(1, name))


def test_an_event_without_id_is_refused() -> None:
    with pytest.raises(ProviderError, match="TCMU_ATTR_DEVICE_ID"):
        decode_notice(message(1, attribute(DEVICE, NAME + b"\0")))


def test_our_own_commands_are_no_notices() -> None:
    assert decode_notice(encode_set_features(FAMILY, 1)) is None


@pytest.mark.parametrize(
    ("kind", "command"),
    [(NoticeKind.ADDED, 4), (NoticeKind.REMOVED, 5), (NoticeKind.RECONFIG, 6)],
)
def test_answers_have_the_bytes_the_kernel_reads(kind: NoticeKind, command: int) -> None:
    notice = Notice(kind, 11, 1, "d", "overlaybd//a")
    body = struct.pack("<BBH", command, 2, 0)
    body += attribute(STATUS, struct.pack("<i", -2)) + attribute(DEVICE_ID, struct.pack("<I", 11))
    header = struct.pack("<IHHII", 16 + len(body), FAMILY, 5, 9, 0)  # REQUEST | ACK
    assert encode_answer(FAMILY, 9, notice, -2) == header + body


def test_features_have_the_bytes_the_kernel_reads() -> None:
    body = struct.pack("<BBH", 7, 2, 0) + attribute(FEATURES, b"\1")
    header = struct.pack("<IHHII", 16 + len(body), FAMILY, 5, 1, 0)
    assert encode_set_features(FAMILY, 1) == header + body


def test_a_datagram_holds_several_messages() -> None:
    data = event(1) + event(2)
    assert [decode_notice(m).kind for _, _, m in split_messages(data)] == [  # type: ignore[union-attr]
        NoticeKind.ADDED,
        NoticeKind.REMOVED,
    ]


@pytest.mark.parametrize("data", [b"\1" * 15, struct.pack("<IHHII", 15, 1, 0, 0, 0)])
def test_lengths_that_do_not_fit_are_refused(data: bytes) -> None:
    with pytest.raises(ProviderError):
        list(split_messages(data))


@given(st.binary(max_size=300))
def test_any_datagram_is_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(ProviderError):
        for _, _, one in split_messages(data):
            decode_notice(one)


@given(st.binary(max_size=120), st.sampled_from([1, 2, 3]))
def test_any_attributes_are_read_or_refused(attributes: bytes, command: int) -> None:
    with contextlib.suppress(ProviderError):
        decode_notice(message(command, attributes))


@given(st.data())
def test_an_event_with_changed_bytes_is_read_or_refused(data: st.DataObject) -> None:
    raw = bytearray(event(3, NAME, attribute(DEV_SIZE, struct.pack("<Q", 4096))))
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(16, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        notice = decode_notice(bytes(raw))
    except ProviderError:
        return
    assert notice is None or isinstance(notice.device_id, int)
