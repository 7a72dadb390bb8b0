"""Which kernel messages count as errors."""

from __future__ import annotations

import pytest

from chaos.campaign.kernel_watch import KernelWatch
from chaos.rig.kernel_log import KernelLog, offending

TROUBLE = [
    "I/O error, dev loop3, sector 128 op 0x1:(WRITE) flags 0x800 phys_seg 1 prio class 2",
    "Buffer I/O error on dev loop3, logical block 7, lost async page write",
    "EXT4-fs error (device loop3): ext4_find_entry:1455: inode #2: comm ls: reading directory",
    "EXT4-fs (loop3): Remounting filesystem read-only",
    "Aborting journal on device loop3-8.",
]


@pytest.mark.parametrize("line", TROUBLE)
def test_trouble_of_our_device_counts_and_of_others_does_not(line: str) -> None:
    assert offending([line], "loop3", is_strict=False) == [line]
    assert offending([line], "loop33", is_strict=False) == []


def test_ordinary_messages_do_not_count() -> None:
    lines = ["EXT4-fs (loop3): mounted filesystem with ordered data mode", "eth0: link up"]
    assert offending(lines, "loop3", is_strict=False) == []


@pytest.mark.parametrize(
    "line",
    [
        "TARGET_CORE[loopback]: Detected NON_EXISTENT_LUN Access for 0x00000001",
        "tcmu daemon: command reply support 1.",
        "sd 0:0:1:0: [sda] Synchronizing SCSI cache",
        "EXT4-fs (sda): error count since last fsck: 2",
        "cmd_id 7 not found, ring is broken",
        "INFO: task redis-server:99 blocked for more than 120 seconds.",
        *TROUBLE,
    ],
)
def test_strict_log_may_not_mention_the_storage_stack(line: str) -> None:
    assert offending([line], "sda", is_strict=True) == [line]


def test_strict_log_allows_what_is_none_of_its_business() -> None:
    lines = ["random: crng init done", "IPv6: ADDRCONF(NETDEV_CHANGE): lo: link becomes ready"]
    assert offending(lines, "sda", is_strict=True) == []


def test_what_a_fault_causes_by_design_is_no_complaint(monkeypatch: pytest.MonkeyPatch) -> None:
    victim = "critical medium error, dev sdb, sector 8 op 0x0:(READ)"
    other = "critical medium error, dev sda, sector 8 op 0x0:(READ)"
    monkeypatch.setattr(KernelLog, "mark", lambda log: None)
    monkeypatch.setattr(KernelLog, "lines", lambda log: [victim, other])
    watch = KernelWatch(["sda"], is_ours=True)
    watch.collect(caused=[r"\bsdb\b"])
    assert watch.complaints == [other]
    watch.collect()
    assert watch.complaints == [other, victim, other]
