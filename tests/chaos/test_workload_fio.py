"""fio on a file: silent while it is well, and each kind of damage gets its name."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chaos.workloads.base import Findings
from chaos.workloads.fio.job import judge, operations
from chaos.workloads.fio.workload import Fio
from chaos.workloads.ground import Ground
from tests.conftest import eventually

BLOCK = 4096
SIZE_BYTES = 8 << 20  # eight chunks of 1 MiB
CHUNK_BYTES = SIZE_BYTES // 8


@pytest.fixture
def device(tmp_path: Path) -> Path:
    path = tmp_path / "device"
    with path.open("wb") as file:
        file.truncate(SIZE_BYTES)
    return path


@pytest.fixture
def fio(tmp_path: Path, device: Path) -> Iterator[Fio]:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    workload = Fio(Ground(device, tmp_path / "mount", scratch, seed=5, cache=tmp_path / "cache"))
    workload.start()
    yield workload
    workload.close()


def _is_full(device: Path) -> bool:
    """Whether the last chunk, written last, has its headers."""
    return device.read_bytes()[-BLOCK:][:2] == b"\xca\xac"


def _put(device: Path, block: int, data: bytes) -> None:
    with device.open("r+b") as file:
        file.seek(block * BLOCK)
        file.write(data)
        os.fsync(file.fileno())


def _get(device: Path, block: int) -> bytes:
    with device.open("rb") as file:
        file.seek(block * BLOCK)
        return file.read(BLOCK)


@pytest.mark.integration
def test_good_device_is_found_good(fio: Fio, device: Path) -> None:
    eventually(lambda: _is_full(device), 30)
    fio.stop()
    fio.stop()
    assert fio.verify() == Findings()
    slices = fio.slices()
    assert fio.operations() == sum(part.operation_cnt for part in slices) > 500
    assert all(part.worst.begun_ns < part.worst.ended_ns for part in slices)


def _flip(device: Path) -> None:
    data = bytearray(_get(device, 3))
    data[2000] ^= 1
    _put(device, 3, bytes(data))


def _move(device: Path) -> None:
    _put(device, CHUNK_BYTES // BLOCK + 3, _get(device, 3))


def _zero(device: Path) -> None:
    _put(device, 3, bytes(BLOCK))


@pytest.mark.integration
@pytest.mark.parametrize(
    ("damage", "kind"), [(_flip, "corrupt"), (_move, "misplaced"), (_zero, "lost")]
)
def test_damage_gets_its_name(
    fio: Fio, device: Path, damage: Callable[[Path], None], kind: str
) -> None:
    eventually(lambda: _is_full(device), 30)
    fio.stop()
    damage(device)
    findings = fio.verify()
    assert getattr(findings, kind), findings


@pytest.mark.integration
def test_block_of_an_earlier_lap_is_stale(fio: Fio, device: Path) -> None:
    eventually(lambda: _is_full(device), 30)
    old = _get(device, 300)
    eventually(lambda: _get(device, 300) != old, 30)
    fio.stop()
    _put(device, 300, old)
    findings = fio.verify()
    assert findings.stale, findings


@pytest.mark.host
def test_device_that_refuses_writes_is_an_io_error(tmp_path: Path, device: Path) -> None:
    attach = ["losetup", "--find", "--show", str(device)]
    node = subprocess.run(attach, capture_output=True, text=True, check=True).stdout.strip()
    ground = Ground(Path(node), tmp_path / "mount", tmp_path, seed=5, cache=tmp_path / "cache")
    workload = Fio(ground)
    try:
        workload.start()
        subprocess.run(["blockdev", "--setro", node], check=True)
        eventually(lambda: "io_errors" in (tmp_path / "fio" / "findings").read_text(), 30)
        workload.stop()
        findings = workload.verify()
    finally:
        workload.close()
        subprocess.run(["blockdev", "--setrw", node], check=True)
        subprocess.run(["losetup", "--detach", node], check=True)
    assert findings.io_errors, findings


def test_latency_log_is_read_in_the_clock_of_the_journal() -> None:
    found = list(operations("1068099, 1100915, 1, 36864, 0\n1068122, 1850439, 0, 8192, 0\n"))
    assert [o.ended_ns for o in found] == [1068099000000, 1068122000000]
    assert found[0].ended_ns - found[0].begun_ns == 1100915


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("fio: io_u error on file /dev/loop0: Input/output error: write offset=4096", "io_errors"),
        ("verify: bad header numberio 3, wanted 7 at file x offset 0, length 4096", "stale"),
        ("verify: bad magic header 635, wanted acca at file x offset 0, length 4096", "corrupt"),
        ("fio: this is not about an operation", ""),
    ],
)
def test_printed_lines_are_told_apart(line: str, kind: str) -> None:
    assert judge(line) == kind
