"""Redis on a real device: silent while it is well, and a damaged append-only file is found."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from chaos.rig.mount import Mount
from chaos.rig.problem import RigError
from chaos.rig.process import processes_naming
from chaos.workloads import containers
from chaos.workloads.base import Findings
from chaos.workloads.ground import Ground, Runtime
from chaos.workloads.mounted import MountedWorkload
from tests.chaos.device_ground import device_ground
from tests.chaos.loop_ground import CACHE, break_file_system
from tests.conftest import eventually

pytestmark = [
    pytest.mark.host,
    pytest.mark.skipif(shutil.which("runc") is None, reason="needs runc"),
]


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    with device_ground(containers.redis_image(CACHE)) as ground:
        yield ground


@pytest.fixture
def fresh(ground: Ground) -> Ground:
    """The same device for each test, with an empty database and an empty scratch folder."""
    shutil.rmtree(ground.scratch / "redis", ignore_errors=True)
    mount = Mount(str(ground.device), ground.mount)
    mount.mount()
    shutil.rmtree(ground.mount / "data")
    (ground.mount / "data").mkdir()
    mount.unmount()
    return ground


@pytest.fixture
def workload(fresh: Ground) -> Iterator[MountedWorkload]:
    workload = containers.redis(fresh)
    try:
        workload.start()
        eventually(lambda: workload.operations() > 200, 60)
        workload.stop()
        yield workload
    finally:
        workload.close()


def _append_only_file(ground: Ground) -> Path:
    files = (ground.mount / "data/appendonlydir").glob("*.incr.aof")
    return max(files, key=lambda path: path.stat().st_size)


def test_good_device_is_found_good(workload: MountedWorkload) -> None:
    assert workload.verify() == Findings()
    assert workload.operations() == sum(part.operation_cnt for part in workload.slices())


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-10] ^= 1  # in the value of the newest SET
    path.write_bytes(data)


def _cut_off(path: Path) -> None:
    data = path.read_bytes()
    commands = data.split(b"*3\r\n$3\r\nSET\r\n")
    path.write_bytes(b"*3\r\n$3\r\nSET\r\n".join(commands[: len(commands) // 2]))


def _spoil(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 4096] = b"\xff" * 4096
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "kind"), [(_flip, "corrupt"), (_cut_off, "lost"), (_spoil, "corrupt")]
)
def test_damaged_append_only_file_is_found(
    ground: Ground, workload: MountedWorkload, damage: Callable[[Path], None], kind: str
) -> None:
    damage(_append_only_file(ground))
    findings = workload.verify()
    assert getattr(findings, kind), findings


def test_failing_calls_are_io_errors(fresh: Ground) -> None:
    workload = containers.redis(fresh)
    try:
        workload.start()
        break_file_system(fresh.mount)
        eventually(lambda: (fresh.scratch / "redis/findings").stat().st_size, 60)
        workload.stop()
        findings = workload.verify()
    finally:
        workload.close()
    assert findings.io_errors, findings
    assert findings.container_restarts == 1  # redis gives up when its log can not be written


def test_container_that_died_is_counted(workload: MountedWorkload) -> None:
    container = workload._container
    assert container
    assert container.init
    container.init.send(signal.SIGKILL)
    assert container.init.wait_gone(10)
    assert workload.verify().container_restarts == 1


def test_container_of_containerd_is_found_good_and_its_death_is_counted(fresh: Ground) -> None:
    workload = containers.redis(replace(fresh, runtime=Runtime.CONTAINERD))
    container = workload._container
    assert container
    try:
        workload.start()
        eventually(lambda: workload.operations() > 200, 60)
        assert container.check()
        workload.stop()
        assert workload.verify() == Findings()
        workload._mount.mount()
        container.start()
        assert container.init
        container.init.send(signal.SIGKILL)
        assert container.init.wait_gone(10)
        assert not container.check()
        assert container.restarts == 1
    finally:
        workload.close()
    assert processes_naming(fresh.scratch) == []


def test_container_that_can_not_start_is_an_error(ground: Ground) -> None:
    workload = containers.redis(ground)
    workload._mount.mount()
    (ground.mount / "etc/redis.conf").rename(ground.mount / "etc/away")
    try:
        with pytest.raises(RigError, match="redis"):
            workload._start_container()
    finally:
        (ground.mount / "etc/away").rename(ground.mount / "etc/redis.conf")
        workload.close()
