"""What the kernel tells of a TCMU device: it was added, removed, or is to be changed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["FOREIGN_SUBTYPE", "OWN_SUBTYPE", "Notice", "NoticeKind", "config_path"]

FOREIGN_SUBTYPE = "overlaybd/"
OWN_SUBTYPE = "obdsup/"  # of the provider tcmu, which nobody answers for


class NoticeKind(Enum):
    """Numbers of enum tcmu_genl_cmd."""

    ADDED = 1
    REMOVED = 2
    RECONFIG = 3


@dataclass(frozen=True, slots=True)
class Notice:
    """One message. ``device_id`` is what the answer must name; it is not shown anywhere else."""

    kind: NoticeKind
    device_id: int
    hba: int
    device: str
    config: str  # dev_config
    size_bytes: int | None = None  # RECONFIG: the new dev_size


def config_path(config: str) -> str:
    """The path of config.v1.json in ``overlaybd/PATH[;DEV_ID]``; "" when it is another's device."""
    if not config.startswith(FOREIGN_SUBTYPE):
        return ""
    return config.removeprefix(FOREIGN_SUBTYPE).partition(";")[0]
