"""Load programs as the campaign holds them, and the files they write."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chaos.rig.latency import SLICE_NS, Operation
from chaos.rig.problem import RigError
from chaos.rig.process import Process, processes_naming
from chaos.workloads import program
from chaos.workloads.base import Findings
from chaos.workloads.catalogue import CATALOGUE, make
from chaos.workloads.ground import Ground
from chaos.workloads.program import LoadProgram
from chaos.workloads.recorder import LatencyFile, Recorder, read_findings
from tests.conftest import eventually

Start = Callable[[str], LoadProgram]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    monkeypatch.setattr(program, "END_TIMEOUT_S", 1.0)
    started = []

    def start(manner: str) -> LoadProgram:
        arguments = {"manner": manner}
        load = LoadProgram("tests.chaos.fake_load", tmp_path / "load", arguments, 2.0)
        started.append(load)
        load.start()
        return load

    yield start
    for load in started:
        load.close()
    assert processes_naming(tmp_path) == []


@pytest.mark.integration
def test_program_runs_stops_and_verifies(start: Start) -> None:
    load = start("behave")
    eventually(lambda: load.operations() > 20)
    load.stop()
    load.stop()
    count = load.operations()
    assert count == sum(part.operation_cnt for part in load.slices())
    load.verify(10)
    assert load.findings() == Findings(stale=["as told"])
    assert load.operations() == count


@pytest.mark.integration
def test_operation_that_fails_is_a_finding(start: Start) -> None:
    load = start("fail")
    eventually(lambda: len(load.findings().io_errors) == 20, 20)  # then it gives up, and waits
    load.stop()
    assert "Input/output error" in load.findings().io_errors[0]


@pytest.mark.integration
def test_program_that_dies_is_a_problem_of_the_rig(start: Start) -> None:
    with pytest.raises(RigError, match="a bug of the load"):
        start("die")


@pytest.mark.integration
def test_program_that_hangs_is_noticed_and_ended(start: Start) -> None:
    load = start("hang")
    with pytest.raises(RigError, match="not stopped within"):
        load.stop()
    load.close()
    load.close()


@pytest.mark.integration
def test_what_a_program_started_ends_with_it(start: Start, tmp_path: Path) -> None:
    load = start("leave a child")
    child = Process.of(int((tmp_path / "load/child").read_text()))
    assert child
    load.close()
    assert child.wait_gone(10)


def test_latency_is_read_as_it_grows(tmp_path: Path) -> None:
    recorder, file = Recorder(tmp_path), LatencyFile(tmp_path / "latency")
    recorder.operation(SLICE_NS, SLICE_NS + 5)
    recorder.operation(SLICE_NS, SLICE_NS + 9)
    recorder.flush()
    assert [part.operation_cnt for part in file.slices()] == [2]
    recorder.operation(2 * SLICE_NS, 3 * SLICE_NS)
    recorder.close()
    with (tmp_path / "latency").open("a") as torn:
        torn.write("17 1 2")  # a line that is being written
    slices = file.slices()
    assert [(part.begin_ns, part.total_ns) for part in slices] == [
        (SLICE_NS, 14),
        (3 * SLICE_NS, SLICE_NS),
    ]
    assert slices[0].worst == Operation(SLICE_NS, SLICE_NS + 9)


def test_findings_are_read_by_kind(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    recorder.found("lost", "one\ntwo")
    recorder.found("corrupt", "three")
    recorder.close()
    assert read_findings(tmp_path / "findings") == Findings(lost=["one\ntwo"], corrupt=["three"])


def test_catalogue_makes_what_it_lists(tmp_path: Path) -> None:
    assert {"fio", "metadata", "sqlite", "redis", "git"} <= CATALOGUE.keys()
    ground = Ground(tmp_path / "d", tmp_path / "m", tmp_path, seed=1, cache=tmp_path)
    assert make("metadata", ground).operations() == 0
    with pytest.raises(ValueError, match="metadata"):
        make("nothing of the kind", ground)
