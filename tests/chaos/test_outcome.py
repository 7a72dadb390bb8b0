"""The outcome of a campaign: what counts as passed, and its way through JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chaos.campaign.outcome import CampaignOutcome, FaultOutcome, WorkloadOutcome
from chaos.rig.latency import Operation, into_slices

MS = 1_000_000


def fault(**changes: Any) -> FaultOutcome:
    values: dict[str, Any] = {
        "kind": "worker-kill", "device": "d0", "begun_ns": 5 * MS, "served_ns": 9 * MS,
        "stall_ns": 6 * MS, "has_landed": True, "evidence": "3 in flight", "recovered": 3,
        "already_done": 1, "wrong": (), "workers_killed": 1, "supervisors_killed": 0,
    }  # fmt: skip
    return FaultOutcome(**{**values, **changes})


def outcome() -> CampaignOutcome:
    slices = into_slices([Operation(0, 2 * MS), Operation(1 * MS, 30 * MS)])
    return CampaignOutcome(
        "ringd", "load", "host", 7, "obdsup-chaos run --seed 7", commands=10, faults=[fault()],
        workloads=[WorkloadOutcome("sectors", "d0", 12, slices)], planned_kinds=("worker-kill",),
    )  # fmt: skip


def test_clean_campaign_passes_and_says_what_it_did() -> None:
    shown = outcome().to_json()
    assert shown["problems"] == []
    assert shown["kills"] == {"worker-kill": 1}
    assert shown["in_flight_recovered"] == 4
    assert shown["stall_ms"]["max"] == 6.0
    assert shown["io_errors"] == shown["lost"] == shown["stale"] == shown["misplaced"] == 0


@pytest.mark.parametrize("kind", ["io_errors", "lost", "stale", "misplaced", "corrupt"])
def test_each_finding_fails_it(kind: str) -> None:
    bad = outcome()
    getattr(bad.findings, kind).append("sector 5")
    assert len(bad.problems()) == 1
    assert bad.to_json()[kind] == 1


def test_a_planned_fault_that_did_not_land_fails_it() -> None:
    bad = outcome()
    bad.faults = [fault(has_landed=False)]
    assert bad.problems() == ["no fault of kind worker-kill landed"]


def test_a_workload_without_operations_fails_it() -> None:
    bad = outcome()
    bad.workloads = [WorkloadOutcome("fio", "d0", 0, [])]
    assert bad.problems() == ["nothing was served"]


def test_a_wrong_consequence_of_a_fault_fails_it() -> None:
    bad = outcome()
    bad.faults = [fault(wrong=("the other blocks failed too",))]
    assert bad.problems() == ["worker-kill: the other blocks failed too"]


def test_record_survives_json() -> None:
    before = outcome()
    assert CampaignOutcome.from_record(json.loads(json.dumps(before.to_record()))) == before


def test_false_alarms_of_the_kernel_are_told_and_fail_nothing() -> None:
    told = outcome()
    told.kernel_false_alarms = ["data will be lost"]
    assert told.problems() == []
    assert told.to_json()["kernel_false_alarm_lines"] == ["data will be lost"]
