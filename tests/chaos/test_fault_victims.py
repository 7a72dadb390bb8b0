"""Faults of lower files and upper disks, on devices of their own beside one under load."""

from __future__ import annotations

import errno
import os
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from chaos.faults import environment_disk, environment_lower
from chaos.faults.base import Fault, Landing, Site
from chaos.faults.environment_disk import FullDisk
from chaos.faults.environment_lower import CorruptBlock, FailingLower, SilentLower, SlowLower
from chaos.rig.faultfs import FaultFs
from chaos.rig.problem import RigError
from chaos.rig.small_disk import SmallDisk
from tests.chaos.fault_site import fault_site

pytestmark = [pytest.mark.integration, pytest.mark.host]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with fault_site("fuse") as made:
        yield made


def nothing(*arguments: object, **options: object) -> None:
    """In place of a cause."""


@pytest.mark.parametrize(
    ("fault", "seed"),
    [
        (SlowLower(), 1),
        (SilentLower(), 1),
        (FailingLower(), 1),  # ZFile
        (FailingLower(), 2),  # raw
        (CorruptBlock(), 1),
        (FullDisk(), 1),  # with a take-over on the full disk
        (FullDisk(), 2),
    ],
    ids=lambda value: getattr(value, "kind", value),
)
def test_the_victim_suffers_that_and_nobody_else(site: Site, fault: Fault, seed: int) -> None:
    landing = fault.inflict(site, random.Random(seed))
    assert landing.has_landed, landing.evidence
    assert landing.wrong == ()
    assert site.node.device_row(fault.kind) is None
    assert str(site.folder) not in Path("/proc/self/mounts").read_text()


def without_cause(fault: Fault, site: Site) -> Landing:
    return fault.inflict(site, random.Random(1))


def test_without_a_delay_nothing_was_slow(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FaultFs, "delay", nothing)
    assert not without_cause(SlowLower(), site).has_landed


def test_without_a_hold_nothing_was_silent(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FaultFs, "hold", nothing)
    with pytest.raises(RigError, match="a held read"):
        without_cause(SilentLower(), replace(site, patience_s=2.0))


def test_without_a_failure_nothing_failed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FaultFs, "fail", nothing)
    landing = without_cause(FailingLower(), site)
    assert not landing.has_landed
    assert any("no medium error" in line for line in landing.wrong)


def test_without_a_flipped_bit_nothing_is_corrupt(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment_lower, "flip", nothing)
    landing = without_cause(CorruptBlock(), site)
    assert not landing.has_landed
    assert any("no medium error" in line for line in landing.wrong)


def test_with_room_for_everything_no_disk_was_full(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SmallDisk, "fill", nothing)
    monkeypatch.setattr(environment_disk, "DISK_MIB", 64)
    assert not without_cause(FullDisk(), site).has_landed


# -- the file system of faults itself --------------------------------------------------------------
@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[FaultFs]:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a").write_bytes(bytes(range(256)) * 64)
    (tmp_path / "source" / "b").write_bytes(b"b" * 4096)
    with FaultFs(tmp_path / "source", tmp_path / "fs") as mounted:
        yield mounted
    assert not os.path.ismount(tmp_path / "fs" / "mnt")


def pread(path: Path, size: int, offset: int) -> bytes | int:
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.pread(fd, size, offset)
    except OSError as error:
        return error.errno or -1
    finally:
        os.close(fd)


def test_a_failing_range_fails_alone_and_as_often_as_told(faulty: FaultFs) -> None:
    path = faulty.mount_point / "a"
    content = bytes(range(256)) * 64
    faulty.fail("a", 100, 200)
    assert pread(path, 100, 0) == content[:100]
    assert pread(path, 101, 0) == errno.EIO
    assert pread(path, 1, 199) == errno.EIO
    assert pread(path, 100, 200) == content[200:300]
    assert pread(faulty.mount_point / "b", 4096, 0) == b"b" * 4096
    faulty.clear()
    faulty.fail("*", 0, 1 << 40, times=2, error=errno.ENODATA)
    assert [pread(path, 10, 0) for _ in range(3)] == [errno.ENODATA, errno.ENODATA, content[:10]]
    assert faulty.counts().failed == 4


def test_a_delay_delays_the_named_file(faulty: FaultFs) -> None:
    faulty.delay("a", 60)
    begun_ns = time.monotonic_ns()
    assert pread(faulty.mount_point / "a", 4, 0) == bytes([0, 1, 2, 3])
    assert time.monotonic_ns() - begun_ns >= 60e6
    assert pread(faulty.mount_point / "b", 1, 0) == b"b"
    assert faulty.counts().delayed == 1


def test_orders_that_mean_nothing_are_refused(faulty: FaultFs) -> None:
    with pytest.raises(RigError, match="refused"):
        faulty.fail("a", 5, 5)
    with pytest.raises(RigError, match="refused"):
        faulty.delay("a b", 5)


def test_it_can_not_be_written(faulty: FaultFs) -> None:
    with pytest.raises(OSError, match="Read-only"):
        (faulty.mount_point / "a").open("r+b")
