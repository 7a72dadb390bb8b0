"""Which kernel messages count as errors."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from chaos.campaign.kernel_watch import KernelWatch
from chaos.rig.kernel_log import KernelLog, is_refutable, offending
from chaos.rig.mount import Mount
from tests.chaos.loop_ground import BLOCK_BYTES, loop_ground

TROUBLE = [
    "I/O error, dev loop3, sector 128 op 0x1:(WRITE) flags 0x800 phys_seg 1 prio class 2",
    "Buffer I/O error on dev loop3, logical block 7, lost async page write",
    "EXT4-fs error (device loop3): ext4_find_entry:1455: inode #2: comm ls: reading directory",
    "EXT4-fs (loop3): Remounting filesystem read-only",
    "Aborting journal on device loop3-8.",
]
LOSS = "EXT4-fs warning (device loop3): ext4_evict_inode:210: inode #12: comm umount: "
LOSS += "data will be lost"


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


@pytest.mark.parametrize(
    "line",
    [
        *TROUBLE,
        LOSS.replace("comm umount", "comm python3"),
        LOSS.replace("warning", "error"),
        LOSS.replace("ext4_evict_inode", "ext4_writepages"),
        LOSS + "!",
    ],
)
def test_only_a_loss_announced_at_an_unmount_can_be_refuted(line: str) -> None:
    assert is_refutable(LOSS)
    assert not is_refutable(line)


def watch_that_heard(monkeypatch: pytest.MonkeyPatch, lines: list[str], **who: bool) -> KernelWatch:
    monkeypatch.setattr(KernelLog, "mark", lambda log: None)
    monkeypatch.setattr(KernelLog, "lines", lambda log: lines)
    watch = KernelWatch(["loop2", "loop3"], is_ours=who["is_ours"])
    watch.collect()
    return watch


def test_announced_loss_is_a_false_alarm_where_everything_was_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watch = watch_that_heard(monkeypatch, [LOSS, TROUBLE[0]], is_ours=False)
    watch.settle({"loop3"})
    assert (watch.false_alarms, watch.complaints) == ([LOSS], [TROUBLE[0]])


def test_announced_loss_is_a_complaint_where_nobody_looked(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = watch_that_heard(monkeypatch, [LOSS], is_ours=False)
    watch.settle({"loop2"})
    assert (watch.false_alarms, watch.complaints) == ([], [LOSS])


def test_kernel_of_our_own_has_no_false_alarms(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = watch_that_heard(monkeypatch, [LOSS], is_ours=True)
    watch.settle({"loop2", "loop3"})
    assert (watch.false_alarms, watch.complaints) == ([], [LOSS])


@pytest.mark.host
def test_what_this_kernel_says_of_a_truncated_folio_is_no_loss(tmp_path: Path) -> None:
    """On a plain loop device; whether the kernel warns depends on it, that nothing is lost not."""
    kept = os.urandom(3 * BLOCK_BYTES)
    with loop_ground(tmp_path) as loop:
        mount = Mount(str(loop.ground.device), loop.ground.mount)
        log = KernelLog()
        mount.prepare()
        mount.mount()
        try:
            _cut_the_dirty_part(mount.folder / "file", kept)
            mount.unmount()
            said = offending(log.lines() or [], mount.device_name, is_strict=False)
            mount.mount()
            assert (mount.folder / "file").read_bytes() == kept
        finally:
            mount.unmount()
    assert [line for line in said if not is_refutable(line)] == []


def _cut_the_dirty_part(path: Path, kept: bytes) -> None:
    """A folio of four blocks is clean, its last block is written anew and at once cut off."""
    with path.open("xb", buffering=0) as file:
        file.write(kept + bytes(BLOCK_BYTES))
        os.fsync(file)
        os.pwrite(file.fileno(), b"x" * BLOCK_BYTES, len(kept))
        file.truncate(len(kept))
        os.fsync(file)
