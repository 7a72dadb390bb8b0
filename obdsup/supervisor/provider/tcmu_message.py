"""Messages of the generic netlink family TCM-USER: what the kernel tells and what it is answered.

| message      | attributes                                                | answer |
|--------------|-----------------------------------------------------------|--------|
| ADDED (1)    | DEVICE, MINOR, DEVICE_ID                                  | 4      |
| REMOVED (2)  | DEVICE, MINOR, DEVICE_ID                                  | 5      |
| RECONFIG (3) | the same and DEV_SIZE, DEV_CFG or WRITECACHE              | 6      |
| SET_FEATURES (7), from us: SUPP_KERN_CMD_REPLY 1                         |        |

DEVICE is the name of the uio device, ``tcm-user/HBA/NAME/DEV_CONFIG``. An answer has DEVICE_ID and
CMD_STATUS, 0 or -errno. The kernel keeps whoever caused a message waiting until it is answered, and
complains in its log about an answer nobody waits for.

pyroute2 does the encoding only: its socket brings an event loop, which a thread that reads one
socket does not need. Importing it costs 20 MiB, so only a supervisor that listens does.

Source: target_core_user.h (enum tcmu_genl_cmd, tcmu_genl_attr).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from pyroute2.netlink import NLM_F_ACK, NLM_F_REQUEST, genlmsg
from pyroute2.netlink.exceptions import NetlinkDecodeError

from obdsup.errors import ProviderError
from obdsup.supervisor.provider.tcmu_notice import Notice, NoticeKind

__all__ = ["decode_notice", "encode_answer", "encode_set_features", "split_messages"]

VERSION = 2
_ANSWERS = {NoticeKind.ADDED: 4, NoticeKind.REMOVED: 5, NoticeKind.RECONFIG: 6}
_SET_FEATURES = 7
_HEADER_BYTES = 16
_NAME_PARTS = 4


class _TcmuMessage(genlmsg):  # type: ignore[misc]
    """Strings as bytes: what a device is called need not be text."""

    nla_map = (
        ("TCMU_ATTR_UNSPEC", "none"),
        ("TCMU_ATTR_DEVICE", "cdata"),
        ("TCMU_ATTR_MINOR", "uint32"),
        ("TCMU_ATTR_PAD", "none"),
        ("TCMU_ATTR_DEV_CFG", "cdata"),
        ("TCMU_ATTR_DEV_SIZE", "uint64"),
        ("TCMU_ATTR_WRITECACHE", "uint8"),
        ("TCMU_ATTR_CMD_STATUS", "int32"),
        ("TCMU_ATTR_DEVICE_ID", "uint32"),
        ("TCMU_ATTR_SUPP_KERN_CMD_REPLY", "uint8"),
    )


def split_messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(type, sequence number, whole message) of each netlink message of a datagram.

    Raises:
        ProviderError: a length that does not fit; what came before it was given out.
    """
    offset = 0
    while offset < len(data):
        if len(data) - offset < _HEADER_BYTES:
            raise ProviderError(f"netlink message of {len(data) - offset} bytes has no header")
        length, kind, _, sequence = struct.unpack_from("=IHHI", data, offset)
        if not _HEADER_BYTES <= length <= len(data) - offset:
            raise ProviderError(f"netlink message claims {length} of {len(data) - offset} bytes")
        yield kind, sequence, data[offset : offset + length]
        offset += -(-length // 4) * 4


def decode_notice(message: bytes) -> Notice | None:
    """One message of the family; None for a command that does not concern us.

    Raises:
        ProviderError: it can not be understood.
    """
    try:
        decoded = _TcmuMessage(message)
        decoded.decode()
        command = decoded["cmd"]
        attributes = dict(decoded["attrs"])
    except (NetlinkDecodeError, struct.error, TypeError, ValueError, KeyError) as error:
        raise ProviderError(f"TCM-USER message can not be decoded: {error}") from error
    if command not in {kind.value for kind in NoticeKind}:
        return None
    hba, device, config = _name_parts(attributes.get("TCMU_ATTR_DEVICE"))
    return Notice(
        kind=NoticeKind(command),
        device_id=_number(attributes, "TCMU_ATTR_DEVICE_ID"),
        hba=hba,
        device=device,
        config=config,
        size_bytes=(
            _number(attributes, "TCMU_ATTR_DEV_SIZE")
            if "TCMU_ATTR_DEV_SIZE" in attributes
            else None
        ),
    )


def _number(attributes: dict[str, object], name: str) -> int:
    value = attributes.get(name)
    if not isinstance(value, int):
        raise ProviderError(f"TCM-USER message: {name} is {value!r}, expected a number")
    return value


def _name_parts(value: object) -> tuple[int, str, str]:
    if not isinstance(value, bytes):
        raise ProviderError(f"TCM-USER message: TCMU_ATTR_DEVICE is {value!r}, expected a name")
    name = value.partition(b"\0")[0].decode(errors="surrogateescape")
    parts = name.split("/", _NAME_PARTS - 1)
    if len(parts) != _NAME_PARTS or parts[0] != "tcm-user" or not parts[1].isdecimal():
        raise ProviderError(f"TCM-USER message: device name {name!r} is not tcm-user/HBA/NAME/…")
    return int(parts[1]), parts[2], parts[3]


def encode_answer(family: int, sequence: int, notice: Notice, status: int) -> bytes:
    """The answer to a notice, acknowledged by the kernel.

    Args:
        status: 0 or -errno, as the one who waits gets it.
    """
    attributes = [("TCMU_ATTR_CMD_STATUS", status), ("TCMU_ATTR_DEVICE_ID", notice.device_id)]
    return _encode(family, sequence, _ANSWERS[notice.kind], attributes)


def encode_set_features(family: int, sequence: int) -> bytes:
    """Tells the kernel that somebody answers: from now on it waits for answers."""
    return _encode(family, sequence, _SET_FEATURES, [("TCMU_ATTR_SUPP_KERN_CMD_REPLY", 1)])


def _encode(family: int, sequence: int, command: int, attributes: list[tuple[str, int]]) -> bytes:
    message = _TcmuMessage()
    message["cmd"], message["version"] = command, VERSION
    message["attrs"] = attributes
    message["header"]["type"] = family
    message["header"]["flags"] = NLM_F_REQUEST | NLM_F_ACK
    message["header"]["sequence_number"] = sequence
    message.encode()
    return bytes(message.data)
