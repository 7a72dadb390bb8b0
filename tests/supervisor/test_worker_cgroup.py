"""Which files of a control group are written, on a tree of plain files; the kernel's own part is in
test_isolation."""

from __future__ import annotations

from pathlib import Path

import pytest

from obdsup.supervisor.worker_cgroup import WorkerCgroups


@pytest.fixture(params=["v1", "v2"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "v2":
        (tmp_path / "cgroup.controllers").write_text("cpu memory pids\n")
    else:
        (tmp_path / "memory").mkdir()
    return tmp_path


def test_a_limit_is_written_with_the_process_and_lifted(root: Path) -> None:
    groups = WorkerCgroups(Path("/run/obdsup"), root)
    is_v2 = (root / "cgroup.controllers").exists()
    assert groups.limit("w1", 4711, 64 << 20) == ""
    (group,) = root.rglob("w1")
    limit = group / ("memory.max" if is_v2 else "memory.limit_in_bytes")
    assert limit.read_text() == str(64 << 20)
    assert (group / "cgroup.procs").read_text() == "4711"
    if is_v2:
        assert (root / "cgroup.subtree_control").read_text() == "+memory"
    assert groups.limit("w1", 4711, 0) == ""
    assert limit.read_text() == ("max" if is_v2 else "-1")


def test_without_a_limit_nothing_is_made(root: Path) -> None:
    before = sorted(root.rglob("*"))
    assert WorkerCgroups(Path("/run/obdsup"), root).limit("w1", 4711, 0) == ""
    assert sorted(root.rglob("*")) == before


def test_supervisors_of_other_run_directories_have_other_groups(root: Path) -> None:
    for run_dir in ("/run/a", "/run/b"):
        WorkerCgroups(Path(run_dir), root).limit("w1", 1, 64 << 20)
    assert len(list(root.rglob("w1"))) == 2


def test_kills_for_memory_are_counted(root: Path) -> None:
    groups = WorkerCgroups(Path("/run/obdsup"), root)
    assert not groups.has_oom("w1")
    groups.limit("w1", 4711, 64 << 20)
    (group,) = root.rglob("w1")
    is_v2 = (root / "cgroup.controllers").exists()
    counts = group / ("memory.events" if is_v2 else "memory.oom_control")
    counts.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 0\n")
    assert not groups.has_oom("w1")
    counts.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
    assert groups.has_oom("w1")


def test_a_host_without_control_groups_says_why(tmp_path: Path) -> None:
    refusal = WorkerCgroups(Path("/run/obdsup"), tmp_path / "none").limit("w1", 1, 64 << 20)
    assert "No such file or directory" in refusal
