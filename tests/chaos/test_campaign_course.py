"""The course of a campaign over fakes: what is done in which order, what is kept when it fails."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.campaign import course
from chaos.campaign.course import run_campaign
from chaos.campaign.outcome import CampaignOutcome
from chaos.campaign.plan import FaultShare, PlannedFault, make_plan
from chaos.faults.base import Site
from chaos.rig.kernel_log import KernelLog
from chaos.rig.problem import RigError
from chaos.workloads.base import Findings
from tests.chaos.fake_stage import LONG_MS, MS, FakeFault, FakeStage, FakeWatcher, FakeWorkload

SHARES = [FaultShare("fake-kill", 1, True)]


@pytest.fixture(autouse=True)
def no_settling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(course, "SETTLE_S", 0.0)


def outcome() -> CampaignOutcome:
    return CampaignOutcome(
        "fake", "load", "host", 1, "obdsup-chaos run", planned_kinds=("fake-kill",)
    )


def plan(count: int = 3, devices: int = 1) -> list[PlannedFault]:
    return make_plan(5, SHARES, count, devices)


def test_campaign_starts_strikes_verifies_and_takes_down(tmp_path: Path) -> None:
    workload, fault, found, watcher = FakeWorkload(), FakeFault(), outcome(), FakeWatcher()
    stage = FakeStage(tmp_path, workload)
    run_campaign(stage.campaign(plan(), fault), found, watcher)
    assert workload.done == ["start", "stop", "verify", "close"]
    assert not stage.is_up
    assert found.problems() == []
    assert (len(found.faults), found.in_flight_recovered(), found.commands) == (3, 6, 100)
    assert [shown.evidence for shown in watcher.seen] == ["by its word"] * 3
    assert watcher.has_ended


def test_faults_draw_from_the_plans_seeds(tmp_path: Path) -> None:
    faults = [FakeFault(), FakeFault()]
    for fault in faults:
        stage = FakeStage(tmp_path, FakeWorkload(), FakeWorkload())
        run_campaign(stage.campaign(plan(8, 2), fault), outcome(), FakeWatcher())
    assert faults[0].numbers == faults[1].numbers
    assert faults[0].devices == faults[1].devices
    assert faults[0].numbers == [random.Random(p.seed).random() for p in plan(8, 2)]
    assert set(faults[0].devices) == {"d0", "d1"}


def test_stall_is_the_longest_operation_that_met_the_fault(tmp_path: Path) -> None:
    found = outcome()
    run_campaign(FakeStage(tmp_path, FakeWorkload()).campaign(plan(1), FakeFault()), found,
                 FakeWatcher())  # fmt: skip
    assert found.faults[0].stall_ns == LONG_MS * MS


def test_findings_of_every_workload_are_kept(tmp_path: Path) -> None:
    found = outcome()
    workloads = [
        FakeWorkload(findings=Findings(lost=["sector 5"])),
        FakeWorkload(findings=Findings(io_errors=["EIO"], container_restarts=1)),
    ]
    run_campaign(FakeStage(tmp_path, *workloads).campaign(plan(), FakeFault()), found,
                 FakeWatcher())  # fmt: skip
    assert (found.findings.lost, found.findings.io_errors) == (["sector 5"], ["EIO"])
    assert found.findings.container_restarts == 1


def test_fault_after_which_service_does_not_come_back_fails_it_and_is_named(tmp_path: Path) -> None:
    def refuse(_site: Site, _chance: random.Random) -> None:
        raise RigError("service: not within 5 s")

    workload, found = FakeWorkload(), outcome()
    stage = FakeStage(tmp_path, workload)
    run_campaign(stage.campaign(plan(), FakeFault(act=refuse)), found, FakeWatcher())
    assert "fault 0 (fake-kill on d0): service: not within 5 s" in found.failure
    assert "the supervisor's last words" in found.failure
    assert workload.done == ["start", "stop", "verify", "close"]
    assert not stage.is_up


def test_workload_that_can_not_be_verified_does_not_keep_the_others_from_it(tmp_path: Path) -> None:
    found = outcome()
    bad, good = FakeWorkload(fails_in="verify"), FakeWorkload(findings=Findings(stale=["old"]))
    run_campaign(FakeStage(tmp_path, bad, good).campaign(plan(), FakeFault()), found,
                 FakeWatcher())  # fmt: skip
    assert "fake on d0: verify failed" in found.failure
    assert found.findings.stale == ["old"]
    assert bad.done[-1] == good.done[-1] == "close"


def test_loss_the_kernel_announced_counts_unless_the_device_was_found_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = [
        f"EXT4-fs warning (device {name}): ext4_evict_inode:210: inode #{number}: comm umount:"
        " data will be lost"
        for number, name in enumerate(["obd0", "obd1", "obd2"])
    ]
    monkeypatch.setattr(KernelLog, "mark", lambda log: None)
    said = [losses]
    monkeypatch.setattr(KernelLog, "lines", lambda log: said.pop() if said else [])
    bad = FakeWorkload(findings=Findings(lost=["/churn/n5"]))
    stage = FakeStage(tmp_path, FakeWorkload(), bad, FakeWorkload(fails_in="verify"))
    stage.nodes = [Path(f"/dev/obd{number}") for number in range(3)]
    found = outcome()
    run_campaign(stage.campaign(plan(), FakeFault()), found, FakeWatcher())
    assert found.kernel_false_alarms == losses[:1]
    assert found.kernel_complaints == losses[1:]
    assert found.findings.lost == ["/churn/n5"]


def test_workload_that_does_not_start_is_a_failure_with_everything_taken_down(
    tmp_path: Path,
) -> None:
    found, workload = outcome(), FakeWorkload(fails_in="start")
    stage = FakeStage(tmp_path, workload)
    run_campaign(stage.campaign(plan(), FakeFault()), found, FakeWatcher())
    assert found.failure == "start failed"
    assert workload.done == ["start", "close"]
    assert not stage.is_up


def test_interruption_keeps_and_verifies_what_was_done(tmp_path: Path) -> None:
    def interrupt(_site: Site, _chance: random.Random) -> None:
        if len(fault.numbers) == 2:
            raise KeyboardInterrupt

    fault = FakeFault(act=interrupt)
    workload, found = FakeWorkload(findings=Findings(lost=["sector 5"])), outcome()
    stage = FakeStage(tmp_path, workload)
    with pytest.raises(KeyboardInterrupt):
        run_campaign(stage.campaign(plan(5), fault), found, FakeWatcher())
    assert len(found.faults) == 1
    assert found.findings.lost == ["sector 5"]
    assert "interrupted" in found.problems()
    assert workload.done == ["start", "stop", "verify", "close"]
    assert not stage.is_up


@pytest.fixture
def signals() -> Iterator[None]:
    before = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    yield
    for number, handler in before:
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals")
def test_second_interruption_leaves_out_the_verification_and_the_taking_down_is_whole(
    tmp_path: Path,
) -> None:
    class Interrupting(FakeWorkload):
        def verify(self) -> Findings:
            signal.raise_signal(signal.SIGINT)
            return super().verify()

        def close(self) -> None:
            signal.raise_signal(signal.SIGINT)  # once more: has to wait
            super().close()

    fault = FakeFault(act=lambda _site, _chance: signal.raise_signal(signal.SIGINT))
    workload, found = Interrupting(), outcome()
    stage = FakeStage(tmp_path, workload)
    stage.interruption.install()
    with pytest.raises(KeyboardInterrupt):
        run_campaign(stage.campaign(plan(), fault), found, FakeWatcher())
    assert workload.done == ["start", "stop", "close"]
    assert not stage.is_up
    assert "interrupted" in found.problems()


@pytest.mark.usefixtures("signals")
def test_interruption_while_the_stage_is_put_up_takes_it_down(tmp_path: Path) -> None:
    class Interrupting(FakeWorkload):
        def start(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    workload, found = Interrupting(), outcome()
    stage = FakeStage(tmp_path, workload)
    stage.interruption.install()
    with pytest.raises(KeyboardInterrupt):
        run_campaign(stage.campaign(plan(), FakeFault()), found, FakeWatcher())
    assert workload.done == ["close"]
    assert not stage.is_up


def test_fault_that_never_lands_fails_the_campaign(tmp_path: Path) -> None:
    found = outcome()
    run_campaign(FakeStage(tmp_path, FakeWorkload()).campaign(plan(), FakeFault(has_landed=False)),
                 found, FakeWatcher())  # fmt: skip
    assert found.problems() == ["no fault of kind fake-kill landed"]
    assert len(found.faults) == 3 + course.MOST_REPEATS


def test_kind_that_missed_is_tried_again_until_it_lands(tmp_path: Path) -> None:
    def land_at_last(_site: Site, _chance: random.Random) -> None:
        fault.has_landed = len(fault.numbers) == 5

    fault, found = FakeFault(has_landed=False), outcome()
    fault.act = land_at_last
    run_campaign(FakeStage(tmp_path, FakeWorkload()).campaign(plan(), fault), found, FakeWatcher())
    assert found.problems() == []
    assert len(set(fault.numbers)) == len(found.faults) == 5
