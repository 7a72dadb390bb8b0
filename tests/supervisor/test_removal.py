"""Removing devices that no worker can serve."""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path

import pytest

from obdsup.errors import AlreadyServed, DeviceNotFound, ObdError
from obdsup.supervisor.provider.base import RingHandle
from obdsup.supervisor.refuser import Refuser
from tests.conftest import eventually
from tests.supervisor.fake_service import FakeService

MAP_BYTES, CMDR_OFF, CMDR_BYTES, ENTRY_BYTES = 1 << 16, 128, 4096, 128


class KernelSide:
    """The other side of a ring on a memfd: queues commands, reads what was answered."""

    def __init__(self) -> None:
        fd = os.memfd_create("ring")
        os.ftruncate(fd, MAP_BYTES)
        kicks = os.eventfd(0, os.EFD_NONBLOCK)
        self.ring = RingHandle("memfd", [fd, os.eventfd(0), kicks], MAP_BYTES)
        self.kicks = kicks
        self.memory = mmap.mmap(fd, MAP_BYTES)
        struct.pack_into("=HHII", self.memory, 0, 2, 0xF, CMDR_OFF, CMDR_BYTES)
        self.head = 0

    def queue(self, number: int, opcode: int) -> int:
        at = CMDR_OFF + self.head
        struct.pack_into("=IHBB", self.memory, at, ENTRY_BYTES | 1, number, 0, 0)
        struct.pack_into("=Q", self.memory, at + 24, at + 112)
        self.memory[at + 112] = opcode
        self._go_on(ENTRY_BYTES)
        return at

    def pad(self) -> None:
        left = CMDR_BYTES - self.head
        struct.pack_into("=IHBB", self.memory, CMDR_OFF + self.head, left, 0, 0, 0)
        self._go_on(left)

    def _go_on(self, length: int) -> None:
        self.head = (self.head + length) % CMDR_BYTES
        struct.pack_into("=I", self.memory, 12, self.head)

    def is_done(self) -> bool:
        return bool(struct.unpack_from("=I", self.memory, 64)[0] == self.head)


def test_commands_are_refused_in_order_and_a_flush_is_fine(tmp_path: Path) -> None:
    (tmp_path / "journal").touch()
    kernel = KernelSide()
    with Refuser(kernel.ring, tmp_path / "journal"):
        for turn in range(100):  # several times round
            if CMDR_BYTES - kernel.head <= 2 * ENTRY_BYTES:
                kernel.pad()
            write, flush = kernel.queue(turn, 0x2A), kernel.queue(turn + 1, 0x35)
            eventually(kernel.is_done, 20)
            number, status, key = (
                struct.unpack_from("=H", kernel.memory, write + 4)[0],
                kernel.memory[write + 8],
                kernel.memory[write + 18],
            )
            assert (number, status, key) == (turn, 2, 4), "CHECK CONDITION, HARDWARE ERROR"
            assert kernel.memory[flush + 8] == 0
    assert os.eventfd_read(kernel.kicks) > 0


def test_a_ring_that_makes_no_sense_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "journal").touch()
    kernel = KernelSide()
    struct.pack_into("=I", kernel.memory, 12, 64)
    struct.pack_into("=I", kernel.memory, CMDR_OFF, 0xFFFFFFF9)
    with Refuser(kernel.ring, tmp_path / "journal") as refuser:
        assert refuser.answer_all() == 0
        struct.pack_into("=I", kernel.memory, 64, 0xFFFFFFF8)
        assert refuser.answer_all() == 0


def test_nobody_refuses_what_somebody_serves(tmp_path: Path) -> None:
    (tmp_path / "journal").touch()
    kernel = KernelSide()
    first, second = (Refuser(kernel.ring, tmp_path / "journal") for _ in range(2))
    with first, pytest.raises(AlreadyServed), second:
        pass


def blocked(service: FakeService) -> None:
    """Device b can not be served: its image is gone."""
    bad = service.image("bad")
    service.create("b", "bad")
    service.wait_for_standby()
    (bad / "fail-serve").write_text("")
    service.kill_worker("b")
    eventually(lambda: service.show("b")["phase"] == "blocked", 30)


@pytest.mark.integration
def test_a_device_whose_image_can_not_be_opened_can_be_removed(service: FakeService) -> None:
    blocked(service)
    service.client.call("device.remove", name="b")
    with pytest.raises(DeviceNotFound):
        service.show("b")
    assert "reset_ring b" in service.provider_calls()


@pytest.mark.integration
def test_a_removal_that_fails_leaves_it_being_tried(service: FakeService) -> None:
    blocked(service)
    (service.rings() / "fail-retract").touch()
    with pytest.raises(ObdError, match="planted failure of retract"):
        service.client.call("device.remove", name="b")
    (service.root / "bad" / "fail-serve").unlink()
    eventually(lambda: service.show("b")["phase"] == "online", 30)
    (service.rings() / "fail-retract").unlink()
    service.client.call("device.remove", name="b")
    assert service.client.call("device.list") == []


@pytest.mark.integration
def test_a_device_in_quarantine_can_be_removed(idle: FakeService) -> None:
    idle.start("--quarantine-deaths", "2")
    bad = idle.image("bad")
    idle.create("b", "bad")
    idle.wait_for_standby()
    (bad / "crash-serve").write_text("")
    idle.kill_worker("b")
    eventually(lambda: idle.show("b")["phase"] == "quarantined", 30)
    idle.client.call("device.remove", name="b")
    assert idle.client.call("device.list") == []
