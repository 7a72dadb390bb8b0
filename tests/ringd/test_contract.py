"""The ABI of the ring as a worker sees it, and what ringd does with a worker that breaks it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from obdsup.errors import ProviderError
from obdsup.supervisor.provider.ringd import RINGD_PATH
from tests.conftest import eventually
from tests.ringd.fake_worker import BUSY, CHECK_CONDITION, Command, FakeWorker
from tests.ringd.ring import LoadRing

pytestmark = pytest.mark.integration

MEDIUM_ERROR = bytes([0x70, 0, 3, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x11, 0])
UNIT_ATTENTION = bytes([0x70, 0, 6, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x29, 0])
F_GET_SEALS, F_SEAL_SHRINK, F_SEAL_GROW = 1034, 2, 4


@pytest.fixture
def rings(tmp_path: Path) -> Iterator[Callable[..., LoadRing]]:
    started: list[LoadRing] = []

    def start(*options: str, **named: int) -> LoadRing:
        started.append(LoadRing(tmp_path, *options, **named))
        return started[-1]

    yield start
    for ring in started:
        ring.close()


Rings = Callable[..., LoadRing]


def test_mapping_is_mailbox_ring_and_data_area_and_can_not_be_resized(rings: Rings) -> None:
    ring = rings("--qd", "1", "--data-area", str(2 << 20))
    worker = ring.worker()
    assert worker.handle.map_bytes == (1 << 20) + (2 << 20)
    assert worker.cmdr_size == (1 << 20) - 128
    seals = fcntl.fcntl(worker.handle.fds[0], F_GET_SEALS)
    assert seals & F_SEAL_SHRINK
    assert seals & F_SEAL_GROW
    with pytest.raises(PermissionError):
        os.ftruncate(worker.handle.fds[0], 4096)


def test_entries_have_the_kernels_size_and_place(rings: Rings) -> None:
    worker = rings("--qd", "32", "--read-percent", "90").worker()
    offset = 0
    for command in worker.pick_up_some(32):
        assert command.ring_offset == offset
        base_bytes = max(112, 48 + 16 * len(command.iovs))
        cdb_bytes = 10 if command.opcode == 0x42 else 16
        assert command.entry_bytes == base_bytes + (cdb_bytes + 7) // 8 * 8
        for start, length in command.iovs:
            assert 1 << 20 <= start < start + length <= worker.handle.map_bytes
        offset += command.entry_bytes


def test_the_lowest_free_id_and_data_block_are_used_again_at_once(rings: Rings) -> None:
    worker = rings("--qd", "4", "--read-percent", "100", "--discard-percent", "0",
                   "--flush-percent", "0", "--max-sectors", "8").worker()  # fmt: skip
    first = worker.pick_up_some(4)
    assert [command.cmd_id for command in first] == [1, 2, 3, 4]
    worker.execute(first[2])
    worker.publish(3)
    worker.kick()
    (again,) = worker.pick_up_some(1)
    assert again.cmd_id == 3
    assert again.iovs[0][0] == first[2].iovs[0][0]


def test_commands_complete_out_of_order_over_many_laps(rings: Rings) -> None:
    # Long commands in fragmented blocks have entries of many sizes: some do not fit at the end.
    ring = rings("--qd", "16", "--max-sectors", "1024")
    worker = ring.worker()
    worker.start()
    eventually(lambda: ring.ringd.stat().number("pads") >= 2, 60)
    report = ring.finish()
    assert report["good"], ring.log()
    assert worker.pads_seen == report["pads"]


def test_limited_load_comes_in_bursts_that_fill_the_queue(rings: Rings) -> None:
    ring = rings("--qd", "8", "--iops", "400", "--max-sectors", "8")
    worker = ring.worker()
    worker.start()
    eventually(lambda: ring.ringd.stat().number("completed") >= 80)
    report = ring.finish()
    assert report["good"], ring.log()
    bursts = 1 + report["elapsed_ns"] * 400 // 8 // 10**9
    assert report["iops"] * report["elapsed_ns"] // 10**9 <= 8 * bursts


def test_a_full_data_area_makes_commands_wait_not_fail(rings: Rings) -> None:
    ring = rings("--qd", "64", "--data-area", str(1 << 20), "--max-sectors", "1024")
    eventually(lambda: ring.ringd.stat().number("waiting") > 0)
    ring.worker().start()
    eventually(lambda: ring.ringd.stat().number("completed") > 300, 30)
    assert ring.finish()["good"], ring.log()


def test_completion_is_seen_on_a_kick_only(rings: Rings) -> None:
    ring = rings("--qd", "1")
    worker = ring.worker()
    (command,) = worker.pick_up_some(1)
    worker.execute(command)
    worker.publish(command.cmd_id)
    assert ring.ringd.stat().number("completed") == 0
    worker.kick()
    eventually(lambda: ring.ringd.stat().number("completed") == 1)


def test_reset_sends_every_command_again_and_empties_the_ring(rings: Rings) -> None:
    ring = rings("--qd", "8")
    worker = ring.worker()
    before = worker.pick_up_some(8)
    ring.ringd.reset()
    successor = ring.worker()
    assert successor.next == 0
    after = successor.pick_up_some(8)
    assert [command.cdb for command in after] == [command.cdb for command in before]
    for command in after:
        successor.execute(command)
        successor.publish(command.cmd_id)
    successor.kick()
    successor.start()
    report = ring.finish()
    assert report["good"], ring.log()
    assert (report["resets"], report["resent"]) == (1, 8)


def test_busy_and_unit_attention_are_sent_again(rings: Rings) -> None:
    ring = rings("--qd", "2")
    worker = ring.worker()
    first, second = worker.pick_up_some(2)
    worker.publish(first.cmd_id, BUSY)
    worker.publish(second.cmd_id, CHECK_CONDITION, UNIT_ATTENTION)
    worker.kick()
    again = worker.pick_up_some(2)
    assert {command.cdb for command in again} == {first.cdb, second.cdb}
    for command in again:
        worker.execute(command)
        worker.publish(command.cmd_id)
    worker.kick()
    worker.start()
    report = ring.finish()
    assert report["good"], ring.log()
    assert report["resent"] == 2


def test_medium_error_is_an_error(rings: Rings) -> None:
    ring = rings("--qd", "1", "--read-percent", "100", "--discard-percent", "0",
                 "--flush-percent", "0")  # fmt: skip
    worker = ring.worker()
    (command,) = worker.pick_up_some(1)
    worker.publish(command.cmd_id, CHECK_CONDITION, MEDIUM_ERROR)
    worker.kick()
    worker.start()
    report = ring.finish()
    assert not report["good"]
    assert report["errors"] == 1


# -- a worker that breaks the ABI -----------------------------------------------------------------


def unknown_id(worker: FakeWorker, first: Command) -> None:
    worker.publish(999)


def same_command_twice(worker: FakeWorker, first: Command) -> None:
    worker.publish(first.cmd_id)
    worker.publish(first.cmd_id)


def tail_beyond_head(worker: FakeWorker, first: Command) -> None:
    worker.set_tail((worker.head + 128) % worker.cmdr_size)


def tail_outside_the_ring(worker: FakeWorker, first: Command) -> None:
    worker.set_tail(0xFFFFFFF8)


def tail_inside_an_entry(worker: FakeWorker, first: Command) -> None:
    worker.set_tail(8)


def unaligned_tail(worker: FakeWorker, first: Command) -> None:
    worker.set_tail(3)


def other_entry_length(worker: FakeWorker, first: Command) -> None:
    struct.pack_into("<I", worker.map, worker.cmdr_off, 0x7FFFFFF9)
    worker.set_tail(first.entry_bytes)


def read_len_beyond_the_data(worker: FakeWorker, first: Command) -> None:
    struct.pack_into("<HxB", worker.map, worker.cmdr_off + 4, first.cmd_id, 0x2)
    struct.pack_into("<B3xI", worker.map, worker.cmdr_off + 8, 0, 0xFFFFFFFF)
    worker.set_tail(first.entry_bytes)


def keep_buf(worker: FakeWorker, first: Command) -> None:
    worker.publish(first.cmd_id, uflags=0x4)


BREAKERS: dict[Any, str] = {
    unknown_id: "unknown cmd_id 999",
    same_command_twice: "unknown cmd_id",
    tail_beyond_head: "outside",
    tail_outside_the_ring: "outside",
    tail_inside_an_entry: "inside the entry",
    unaligned_tail: "outside",
    other_entry_length: "len_op",
    read_len_beyond_the_data: "read_len",
    keep_buf: "KEEP_BUF",
}


@pytest.mark.parametrize("breaker", BREAKERS, ids=lambda breaker: breaker.__name__)
def test_a_broken_ring_says_why_and_fails_every_command(rings: Rings, breaker: Any) -> None:
    ring = rings("--qd", "4", "--linger")
    worker = ring.worker()
    commands = worker.pick_up_some(4)
    breaker(worker, commands[0])
    worker.kick()
    stat = eventually(lambda: (stat := ring.ringd.stat()).is_broken and stat)
    assert BREAKERS[breaker] in stat.broken_reason
    assert stat.broken_reason in ring.log()
    ring.ringd.stop(is_forced=True)
    report = ring.report()
    assert report["broken"] is True
    assert report["good"] is False


def test_reset_mends_a_broken_ring(rings: Rings) -> None:
    ring = rings("--qd", "4", "--linger")
    worker = ring.worker()
    worker.pick_up_some(4)
    worker.publish(999)
    worker.kick()
    eventually(lambda: ring.ringd.stat().is_broken)
    ring.ringd.reset()
    stat = ring.ringd.stat()
    assert not stat.is_broken
    assert stat.number("in_flight") == 4
    assert len(ring.worker().pick_up_some(4)) == 4


def no_data(worker: FakeWorker, command: Command) -> None:
    """A read is acknowledged, its blocks hold what was there before."""


def other_place(worker: FakeWorker, command: Command) -> None:
    """A read returns the sectors of another place."""
    at = (command.lba * 512 + 4096) % (1 << 17)
    for offset, length in command.iovs:
        worker.map[offset : offset + length] = worker.disk[at : at + length]
        at += length


def flipped_bit(worker: FakeWorker, command: Command) -> None:
    """A read returns its data but for one bit."""
    worker.execute(command)
    offset, length = command.iovs[-1]
    worker.map[offset + length - 1] ^= 0x10


@pytest.mark.parametrize("misread", [no_data, other_place, flipped_bit])
def test_wrong_data_is_found_though_the_ring_is_fine(rings: Rings, misread: Any) -> None:
    ring = rings("--qd", "8", "--max-sectors", "8", "--span", str(1 << 18))
    worker = ring.worker()
    served = 0
    while served < 400:
        for command in worker.pick_up_some(1):
            if command.opcode == 0x88:
                misread(worker, command)
            else:
                worker.execute(command)
            worker.publish(command.cmd_id)
            served += 1
        worker.kick()
    worker.start()
    report = ring.finish()
    assert report["corrupt"] + report["stale"] + report["misplaced"] > 0, report
    assert not report["broken"]


def test_lost_writes_are_found_at_the_latest_when_all_is_read_back(rings: Rings) -> None:
    ring = rings("--qd", "8", "--read-percent", "0", "--span", str(1 << 18))
    worker = ring.worker()
    writes = 0
    while writes < 200:
        for command in worker.pick_up_some(1):
            writes += command.opcode == 0x8A
            if command.opcode != 0x8A or writes % 10:
                worker.execute(command)
            worker.publish(command.cmd_id)
        worker.kick()
    worker.start()
    ring.ringd.finish()
    report = ring.report()
    assert report["lost"] > 0
    assert report["stale"] == 0


# -- the control socket ---------------------------------------------------------------------------


def test_a_second_ringd_on_the_socket_is_refused(rings: Rings) -> None:
    ring = rings("--qd", "1")
    command = [str(RINGD_PATH), "load", "--name", "x", "--size", "1048576", "--socket"]
    done = subprocess.run(
        [*command, str(ring.ringd.socket_path)], capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 2
    assert "another ringd" in done.stderr
    assert ring.ringd.pid() == ring.process.pid


def test_socket_of_a_killed_ringd_is_taken_over(rings: Rings) -> None:
    ring = rings("--qd", "1")
    assert os.stat(ring.ringd.socket_path).st_mode & 0o777 == 0o600
    ring.process.kill()
    ring.process.wait()
    assert rings("--qd", "1").ringd.is_alive()


def test_ringd_survives_what_clients_send(rings: Rings) -> None:
    ring = rings("--qd", "1")
    for request in ("", "x" * 200, "stat stat", "stop it"):
        with pytest.raises(ProviderError):
            ring.ringd.ask(request or "\x00")
    clients = []
    for _ in range(64):  # more than it takes
        client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        clients.append(client)
        with contextlib.suppress(OSError):
            client.connect(str(ring.ringd.socket_path))
            client.send(b"stat" * 1000)
            client.send(b"gaps")
    for client in clients:
        client.close()
    assert eventually(ring.ringd.is_alive)


def test_gaps_are_listed_once(rings: Rings) -> None:
    ring = rings("--qd", "1")
    worker = ring.worker()
    worker.start()
    eventually(lambda: ring.ringd.stat().number("completed") > 50)
    worker.stop()
    eventually(lambda: ring.ringd.stat().number("open_gap_ns") > 50_000_000)
    assert all(end - start >= 1_000_000 for start, end in ring.ringd.gaps_ns())
    worker.start()
    eventually(lambda: ring.ringd.stat().number("longest_gap_ns") > 50_000_000)
    longest = ring.ringd.stat().number("longest_gap_ns")
    assert max(end - start for start, end in ring.ringd.gaps_ns()) == longest


@pytest.mark.parametrize(
    "options",
    [
        ["none"],
        ["load"],
        ["load", "--name", "a", "--socket", "s", "--size", "513"],
        ["load", "--name", "a", "--socket", "s", "--size", "-1"],
        ["load", "--name", "a", "--socket", "s", "--size", "512", "--qd", "0"],
        ["fuse", "--name", "a", "--socket", "s", "--size", "512"],
    ],
)
def test_wrong_command_lines_are_refused(options: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [str(RINGD_PATH), *options], capture_output=True, text=True, timeout=20, cwd=tmp_path
    )
    assert done.returncode == 2
    assert "usage:" in done.stderr
