"""The sector checker on a file and on a real device: silent while it is well, else exact."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chaos.rig.problem import RigError, venv_program
from chaos.workloads.base import Findings
from chaos.workloads.ground import Ground
from chaos.workloads.sectors import Sectors, findings_of
from tests.chaos.device_ground import device_ground
from tests.conftest import eventually

SIZE_BYTES = 1 << 20
SECTOR = 512
STAMP = struct.Struct("<QQQQII")


@pytest.fixture
def device(tmp_path: Path) -> Path:
    path = tmp_path / "device"
    path.write_bytes(bytes(SIZE_BYTES))
    return path


@pytest.fixture
def sectors(tmp_path: Path, device: Path) -> Iterator[Sectors]:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    ground = Ground(device, tmp_path / "mount", scratch, seed=5, cache=tmp_path / "cache")
    workload = Sectors(ground)
    yield workload
    workload.close()


def _stamped(device: Path) -> list[int]:
    """LBAs of the sectors that hold a stamp of their own place."""
    data = device.read_bytes()
    stamps = [STAMP.unpack_from(data, lba * SECTOR) for lba in range(SIZE_BYTES // SECTOR)]
    return [lba for lba, (magic, _, _, place, *_) in enumerate(stamps) if magic and place == lba]


def _put(device: Path, lba: int, data: bytes) -> None:
    fd = os.open(device, os.O_WRONLY | os.O_DSYNC)
    try:
        os.pwrite(fd, data, lba * SECTOR)
    finally:
        os.close(fd)


@pytest.mark.integration
def test_good_device_is_found_good(sectors: Sectors) -> None:
    sectors.start()
    eventually(lambda: sectors.operations() > 500)
    assert sectors.verify() == Findings()
    slices = sectors.slices()
    assert [s.begin_ns for s in slices] == sorted(s.begin_ns for s in slices)
    assert sum(s.operation_cnt for s in slices) == sectors.operations()


@pytest.mark.integration
def test_damage_while_it_runs_is_found_with_its_place(sectors: Sectors, device: Path) -> None:
    sectors.start()
    before = device.read_bytes()

    def is_found() -> bool:
        for lba in range(SIZE_BYTES // SECTOR):  # what was written since is gone again
            _put(device, lba, before[lba * SECTOR : (lba + 1) * SECTOR])
        log = device.parent / "scratch" / "sectors" / "load.log"
        return "found zeros" in log.read_text() or "found sequence" in log.read_text()

    eventually(is_found, 30)
    found = sectors.verify()
    assert found.stale
    assert not found.misplaced + found.corrupt + found.io_errors
    assert all(line.startswith("device device lba ") for line in found.stale[:20])


@pytest.mark.integration
def test_damage_after_it_stopped_is_found_with_its_kind(sectors: Sectors, device: Path) -> None:
    sectors.start()
    eventually(lambda: len(_stamped(device)) > 100)
    sectors.stop()
    first, second, third, fourth = _stamped(device)[:4]
    data = device.read_bytes()
    _put(device, first, data[second * SECTOR : (second + 1) * SECTOR])
    _put(device, third, bytes(SECTOR))
    _put(device, fourth, data[fourth * SECTOR : (fourth + 1) * SECTOR][:-1] + b"\xff")
    found = sectors.verify()
    kinds = (found.misplaced, found.lost, found.corrupt)
    assert [len(lines) for lines in kinds] == [1, 1, 1]
    for lines, lba in zip(kinds, (first, third, fourth), strict=True):
        assert f"lba {lba}: " in lines[0]
    assert not found.stale + found.io_errors


@pytest.mark.integration
def test_a_program_that_died_is_told(sectors: Sectors, device: Path) -> None:
    sectors.start()
    name = f"{device.parent}/scratch/sectors/ledger"
    pids = subprocess.run(
        ["pgrep", "-f", f"sectors --ledger {name}"], capture_output=True, check=True
    )
    os.kill(int(pids.stdout), signal.SIGKILL)
    with pytest.raises(RigError, match="ended with -9"):
        sectors.verify()


def test_a_device_that_is_not_there_is_told(tmp_path: Path) -> None:
    ground = Ground(tmp_path / "none", tmp_path, tmp_path, seed=1, cache=tmp_path)
    workload = Sectors(ground)
    with pytest.raises(RigError, match="can not be opened"):
        workload.start()
    workload.close()


def _report(path: Path, **changes: Any) -> Path:
    zeros = dict.fromkeys(("errors", "lost", "stale", "misplaced", "corrupt", "unfinished"), 0)
    report = {"name": "d", **zeros, "complete": True, "findings": [], **changes}
    path.write_text(json.dumps(report))
    return path


def test_every_finding_is_a_line(tmp_path: Path) -> None:
    listed = [{"kind": "stale", "text": "device d lba 1: …"}, {"kind": "io_error", "text": "EIO"}]
    path = _report(tmp_path / "r", stale=3, errors=1, findings=listed)
    found = findings_of(path)
    assert found.io_errors == ["EIO"]
    assert found.stale[0] == "device d lba 1: …"
    assert len(found.stale) == 3
    assert findings_of(_report(path)).is_clean
    assert not findings_of(_report(path, complete=False)).is_clean
    assert findings_of(_report(path, unfinished=2)).io_errors == ["2 operations did not end"]


def test_a_missing_report_is_told(tmp_path: Path) -> None:
    with pytest.raises(RigError, match="the report"):
        findings_of(tmp_path / "none")
    (tmp_path / "other").write_text('{"name": "d"}')
    with pytest.raises(RigError, match="findings"):
        findings_of(tmp_path / "other")


@pytest.mark.host
def test_a_real_device_is_found_good(tmp_path: Path) -> None:
    data, index, config = (tmp_path / name for name in ("data", "index", "config.v1.json"))
    upper = {"data": str(data), "index": str(index)}
    config.write_text(json.dumps({"repoBlobUrl": "", "lowers": [], "upper": upper}))
    new = ["image", "new-upper", "--size", str(64 << 20), str(data), str(index)]
    subprocess.run([venv_program("obdsup"), *new], check=True, stdout=subprocess.DEVNULL)
    with device_ground(config) as ground:
        workload = Sectors(ground)
        try:
            workload.start()
            eventually(lambda: workload.operations() > 500, 60)
            assert workload.verify() == Findings()
        finally:
            workload.close()
