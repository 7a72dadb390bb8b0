"""Metadata churn: the model follows the calls, and damage on the device is found."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.rig.latency import SLICE_NS
from chaos.workloads.base import Findings
from chaos.workloads.files import metadata
from chaos.workloads.metadata.comparison import compare_tree
from chaos.workloads.metadata.load import MetadataLoad
from chaos.workloads.metadata.model import Directory, File, Symlink, Tree
from chaos.workloads.mounted import MountedWorkload
from chaos.workloads.recorder import Recorder
from tests.chaos.loop_ground import BLOCK_BYTES, LoopGround, loop_ground
from tests.conftest import eventually


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[LoopGround]:
    with loop_ground(tmp_path) as loop:
        yield loop


@pytest.fixture
def workload(loop: LoopGround) -> Iterator[MountedWorkload]:
    workload = metadata(loop.ground)
    try:
        workload.start()
        eventually(lambda: workload.operations() > 300, 60)
        workload.stop()
        yield workload
    finally:
        workload.close()


def _big_file(loop: LoopGround) -> Path:
    files = [path for path in loop.ground.mount.rglob("churn/**/n*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


@pytest.mark.host
def test_good_device_is_found_good(workload: MountedWorkload) -> None:
    assert workload.verify() == Findings()
    slices = workload.slices()
    assert workload.operations() == sum(part.operation_cnt for part in slices)
    assert all(part.begin_ns % SLICE_NS == 0 for part in slices)


@pytest.mark.host
@pytest.mark.parametrize(
    ("damage", "kind"),
    [(b"\x55" * BLOCK_BYTES, "corrupt"), (bytes(BLOCK_BYTES), "lost"), (None, "misplaced")],
)
def test_damaged_block_gets_its_name(
    loop: LoopGround, workload: MountedWorkload, damage: bytes | None, kind: str
) -> None:
    blocks = loop.blocks(_big_file(loop))
    loop.overwrite(blocks[1], damage or loop.read(blocks[0]))
    findings = workload.verify()
    lines = getattr(findings, kind)
    assert lines, findings
    setattr(findings, kind, [])  # once per name of the file, and nothing else
    assert findings == Findings()


@pytest.mark.host
def test_file_that_vanished_is_lost_and_one_that_came_is_stale(
    loop: LoopGround, workload: MountedWorkload
) -> None:
    victim = _big_file(loop)
    victim.rename(victim.with_name("came"))
    findings = workload.verify()
    assert any(victim.name in line for line in findings.lost)
    assert any("came" in line for line in findings.stale)


@pytest.mark.host
def test_damaged_file_system_is_found(loop: LoopGround, workload: MountedWorkload) -> None:
    os_block = loop.blocks(loop.ground.mount / "churn")[0]
    loop.overwrite(os_block, b"\xff" * BLOCK_BYTES)
    findings = workload.verify()
    assert any("e2fsck" in line for line in findings.corrupt)


@pytest.mark.host
def test_failing_calls_are_io_errors(loop: LoopGround) -> None:
    workload = metadata(loop.ground)
    try:
        workload.start()
        loop.break_file_system()
        eventually(lambda: (loop.ground.scratch / "metadata/findings").stat().st_size, 30)
        workload.stop()
        assert workload.verify().io_errors
    finally:
        workload.close()


def test_same_seed_same_calls(tmp_path: Path) -> None:
    trees = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        recorder = Recorder(folder)
        load = MetadataLoad(folder, 3, recorder)
        for _ in range(400):
            load.step()
        assert list(compare_tree(folder / "churn", load._tree.root)) == []
        recorder.close()
        trees.append(sorted(str(path.relative_to(folder)) for path in folder.rglob("churn/**/*")))
    assert trees[0] == trees[1]
    assert len(trees[0]) > 30


def test_model_of_renames_and_links() -> None:
    tree = Tree()
    tree.add("d", Directory())
    one, two = File(bytearray(b"1")), File(bytearray(b"2"))
    tree.add("d/one", one)
    tree.add("two", two)
    tree.add("also", one)
    tree.rename("d/one", "also")  # two names of one file: nothing happens
    assert sorted(tree.paths(File)) == ["also", "d/one", "two"]
    tree.rename("two", "also")
    assert (one.link_cnt, two.link_cnt) == (1, 1)
    tree.rename("d", "e")
    assert tree.node("e/one") is one


def test_every_difference_is_seen(tmp_path: Path) -> None:
    tree = Tree()
    tree.add("file", File(bytearray(b"x"), mode=0o600))
    tree.add("link", Symlink("there"))
    (tmp_path / "file").write_bytes(b"xx")
    (tmp_path / "file").chmod(0o644)
    (tmp_path / "link").symlink_to("elsewhere")
    lines = [line for _, line in compare_tree(tmp_path, tree.root)]
    assert [part for line in lines for part in ("mode", "bytes", "points") if part in line] == [
        "mode",
        "bytes",
        "points",
    ]
