"""A git build in a container: silent while the device is well, and damage in it is found."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from chaos.rig.mount import Mount
from chaos.workloads import containers
from chaos.workloads.base import Findings
from chaos.workloads.git.load import kind_of
from chaos.workloads.git.script import REPOSITORY
from chaos.workloads.ground import Ground
from chaos.workloads.mounted import MountedWorkload
from tests.chaos.device_ground import device_ground
from tests.chaos.loop_ground import CACHE, break_file_system
from tests.conftest import eventually

needs_containers = pytest.mark.skipif(shutil.which("runc") is None, reason="needs runc")


@pytest.fixture(scope="module")
def device() -> Iterator[Ground]:
    with device_ground(containers.git_image(CACHE)) as ground:
        yield ground


@pytest.fixture
def ground(device: Ground, request: pytest.FixtureRequest) -> Ground:
    """The same device, with no repository and a scratch folder of this test's own."""
    mount = Mount(str(device.device), device.mount)
    mount.mount()
    shutil.rmtree(device.mount / REPOSITORY, ignore_errors=True)
    mount.unmount()
    scratch = device.scratch / str(abs(hash(request.node.name)))
    scratch.mkdir()
    return replace(device, scratch=scratch)


@pytest.fixture
def workload(ground: Ground) -> Iterator[MountedWorkload]:
    workload = containers.git(ground)
    try:
        workload.start()
        eventually(lambda: workload.operations() > 25, 60)  # a commit and a build, at least
        yield workload
    finally:
        workload.close()


def _git_folder(ground: Ground) -> Path:
    return ground.mount / REPOSITORY / ".git"


def _unpacked(branch: Path) -> str:
    """What the branch points to; empty while `git gc` has it packed, until the next commit."""
    try:
        return branch.read_text()
    except FileNotFoundError:
        return ""


@pytest.mark.host
@needs_containers
def test_good_device_is_found_good(workload: MountedWorkload) -> None:
    workload.stop()
    assert workload.verify() == Findings()


@pytest.mark.host
@needs_containers
def test_damaged_object_is_found(ground: Ground, workload: MountedWorkload) -> None:
    workload.stop()
    objects = [path for path in _git_folder(ground).rglob("objects/*/*") if path.is_file()]
    largest = max(objects, key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 0x10
    largest.chmod(0o644)
    largest.write_bytes(data)
    assert workload.verify().corrupt


@pytest.mark.host
@needs_containers
def test_branch_of_an_earlier_moment_is_a_loss(ground: Ground, workload: MountedWorkload) -> None:
    branch = _git_folder(ground) / "refs/heads/main"
    before = eventually(lambda: _unpacked(branch), 60)
    eventually(lambda: _unpacked(branch) not in ("", before), 60)
    workload.stop()
    branch.write_text(before)
    findings = workload.verify()
    assert any("acknowledged" in line for line in findings.lost), findings


@pytest.mark.host
@needs_containers
def test_failing_calls_are_io_errors(ground: Ground, workload: MountedWorkload) -> None:
    break_file_system(ground.mount)
    eventually(lambda: (ground.scratch / "git/findings").stat().st_size, 60)
    workload.stop()
    assert workload.verify().io_errors


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("error: object file is empty fatal: loose object is corrupt", "corrupt"),
        ("fatal: unable to write: Input/output error", "io_errors"),
        ("sh: can't create m1.c: Read-only file system", "io_errors"),
    ],
)
def test_complaints_are_told_apart(said: str, kind: str) -> None:
    assert kind_of(said) == kind
