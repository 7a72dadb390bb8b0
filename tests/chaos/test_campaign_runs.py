"""Short real campaigns: they pass, meet every planned kind of fault, and leave nothing behind."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from chaos.campaign.__main__ import main
from chaos.campaign.installation import Installation
from chaos.campaign.stage import StageOptions
from chaos.rig.counters import DeviceJournal
from chaos.rig.process import processes_naming

REPO = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.chaos


class CampaignRun:
    """One ``obdsup-chaos`` in a process of its own; its output is read line by line."""

    def __init__(self, json_path: Path, *options: str, prefix: Sequence[str] = ()) -> None:
        command = [*prefix, sys.executable, "-m", "chaos.campaign", *options]
        command += ["--json", str(json_path)]
        self.json_path = json_path
        self.process = subprocess.Popen(
            command, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.lines: list[str] = []

    def read_until(self, word: str) -> bool:
        """Reads on until a line has the word; False when the output ends before."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if word and word in line:
                return True
        return False

    def finish(self) -> int:
        """Reads the rest and returns the exit code."""
        self.read_until("")
        return self.process.wait()

    def output(self) -> str:
        return "".join(self.lines)

    def result(self) -> dict[str, Any]:
        (campaign,) = json.loads(self.json_path.read_text())["campaigns"]
        assert isinstance(campaign, dict)
        return campaign

    def left_behind(self) -> list[str]:
        """What is still there of this run: folders, and what is mounted or attached in them."""
        mark = f"obdsup-chaos-{self.process.pid}-"
        folders = [
            path
            for parent in ("/run", "/dev/shm", "/tmp", "/var/tmp")
            for path in Path(parent).glob(f"{mark}*")
        ]
        left = [str(path) for path in folders]
        left += [f"process {p.pid}" for folder in folders for p in processes_naming(folder)]
        left += [line for line in Path("/proc/mounts").read_text().splitlines() if mark in line]
        for loop in Path("/sys/block").glob("loop*/loop/backing_file"):
            left += [str(loop)] if mark in loop.read_text() else []
        return left


@pytest.fixture
def runs() -> Iterator[list[CampaignRun]]:
    """The runs a test started: interrupted at its end if they still go on."""
    runs: list[CampaignRun] = []
    yield runs
    for run in runs:
        while run.process.poll() is None:
            run.process.send_signal(signal.SIGINT)
            run.finish()
        assert run.process.stdout is not None
        run.process.stdout.close()


def start(runs: list[CampaignRun], folder: Path, *options: str) -> CampaignRun:
    run = CampaignRun(folder / "chaos.json", *options)
    runs.append(run)
    return run


def assert_zeros(result: dict[str, Any]) -> None:
    names = ("io_errors", "lost", "stale", "misplaced", "corrupt", "container_restarts")
    assert {name: result[name] for name in names} == dict.fromkeys(names, 0)
    assert result["kernel_complaints"] == 0
    assert result["problems"] == []


def test_processes_die_under_ringds_load_and_nothing_is_lost(
    runs: list[CampaignRun], tmp_path: Path
) -> None:
    kinds = "worker-kill,both-kill,supervisor-kill,kill-in-handover,kill-in-create,standby-kill"
    run = start(runs, tmp_path, "run", "--kills", "30", "--seed", "1", "--devices", "2",
                "--faults", kinds)  # fmt: skip
    assert run.finish() == 0, run.output()
    result = run.result()
    assert_zeros(result)
    assert result["worker_kills"] >= 30
    assert set(result["landed"]) == set(kinds.split(","))
    assert result["in_flight_recovered"] > 0
    assert run.left_behind() == []


def test_workers_die_at_named_points_and_nothing_is_lost(
    runs: list[CampaignRun], tmp_path: Path
) -> None:
    run = start(runs, tmp_path, "run", "--hooks", "--kills", "20", "--seed", "2", "--devices", "2",
                "--faults", "worker-segv,recovery-point,handover-point")  # fmt: skip
    assert run.finish() == 0, run.output()
    result = run.result()
    assert_zeros(result)
    assert set(result["landed"]) == {"worker-segv", "recovery-point", "handover-point"}
    assert run.left_behind() == []


AS_NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


@pytest.mark.host
def test_ringds_load_needs_no_root(runs: list[CampaignRun]) -> None:
    can_read = [*AS_NOBODY, "test", "-r", str(REPO / "pyproject.toml"), "-a", "-w", "/var/tmp"]
    if subprocess.run(can_read, check=False).returncode:
        pytest.skip(f"nobody can not read {REPO}")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        Path(folder).chmod(0o777)
        options = ["run", "--kills", "5", "--seed", "8", "--devices", "1", "--no-report"]
        run = CampaignRun(Path(folder, "chaos.json"), *options, prefix=AS_NOBODY)
        runs.append(run)
        assert run.finish() == 0, run.output()
        assert_zeros(run.result())
        assert run.left_behind() == []


def test_interrupted_campaign_writes_what_it_found_and_can_be_replayed(
    runs: list[CampaignRun], tmp_path: Path
) -> None:
    run = start(runs, tmp_path, "run", "--kills", "100000", "--seed", "3", "--devices", "1")
    assert run.read_until("recovered"), run.output()
    run.process.send_signal(signal.SIGINT)
    assert run.finish() == 130, run.output()
    result = run.result()
    assert result["worker_kills"] > 0
    assert result["problems"] == ["interrupted"]
    assert_zeros({**result, "problems": []})
    assert run.left_behind() == []
    again = start(runs, tmp_path / "again", "replay", f"{run.json_path}#0")
    assert again.read_until("campaign load: "), again.output()
    assert again.lines[-1].strip().endswith(result["command"])


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--faults", "meteor"], "no fault is called meteor"),
        (["--faults", "worker-segv"], "worker-segv can not be inflicted here: needs"),
        (["--workloads", "fio"], "--workloads are for block devices"),
        (["--provider", "fuse"], "--provider fuse needs --workloads"),
        (["--provider", "fuse", "--workloads", "oracle"], "no workload is called 'oracle'"),
        (["--external-device", "/dev/null"], "belong together"),
    ],
)
def test_wrong_usage_is_told_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], problem: str
) -> None:
    path = tmp_path / "chaos.json"
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        assert main(["run", *options, "--json", str(path)]) == 2
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)
    assert problem in capsys.readouterr().err
    assert not path.exists()


@pytest.mark.host
def test_daemon_of_somebody_else_is_killed_on_the_same_schedule(
    runs: list[CampaignRun], tmp_path: Path
) -> None:
    with ExitStack() as stack:
        options = StageOptions("fuse", 0, 0, 2, (), "runc", 0.0, 60.0, tmp_path / "logs")
        node = Installation.build(stack, options).node
        data, index = tmp_path / "data", tmp_path / "index"
        node.obdsup("image", "new-upper", "--size", str(64 << 20), str(data), str(index))
        upper = {"data": str(data), "index": str(index)}
        config = tmp_path / "config.v1.json"
        config.write_text(json.dumps({"lowers": [], "upper": upper}))
        stack.callback(node.remove_device, "other")
        row = node.obdsup("device", "create", "other", "--image", str(config), "--writable")
        show = shlex.join([*node.command(), "--json", "device", "show", "other"])
        pid = "import json, sys; print(json.load(sys.stdin)['worker']['pid'])"
        kill = f"kill -9 $({show} | {shlex.quote(sys.executable)} -c {shlex.quote(pid)})"
        run = start(
            runs, tmp_path, "run", "--external-device", row["block_device"],
            "--external-kill", kill, "--external-start", f"touch {tmp_path}/started",
            "--workloads", "sectors", "--kills", "5", "--seed", "6",
        )  # fmt: skip
        assert run.finish() == 0, run.output()
        assert DeviceJournal(node.run_dir, "other").read().owner_generation >= 6
    result = run.result()
    assert_zeros(result)
    assert (result["provider"], result["kills"]) == ("external", {"worker-kill": 5})
    assert result["stall_ms"]["max"] > 0
    assert (tmp_path / "started").exists()
    assert run.left_behind() == []


@pytest.mark.host
def test_workers_die_under_block_devices_and_a_container_and_nothing_is_lost(
    runs: list[CampaignRun], tmp_path: Path
) -> None:
    run = start(runs, tmp_path, "run", "--provider", "fuse", "--workloads", "sectors,redis",
                "--kills", "12", "--seed", "4",
                "--faults", "worker-kill,both-kill,supervisor-kill")  # fmt: skip
    assert run.finish() == 0, run.output()
    result = run.result()
    assert_zeros(result)
    assert result["worker_kills"] >= 12
    assert result["provider"] == "fuse"
    assert run.left_behind() == []
