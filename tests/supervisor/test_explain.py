"""Explanations are total over both machines, and say what the facts say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from obdsup.state.device import EventRow, RolloutRow
from obdsup.supervisor.device_machine import DeviceState
from obdsup.supervisor.explain import LIFE, SERVICE, DeviceFacts, explain
from obdsup.supervisor.problems import problems
from obdsup.supervisor.service_machine import ServiceState

FINE = DeviceFacts("web", "online", "served", "online", worker="w3 (pid 7)", release="0.1.0")


def row(name: str, seconds: int = 0, **fields: object) -> EventRow:
    return EventRow(seconds, 1_795_622_400.0 + seconds, name, "web", fields)


def test_every_state_of_both_machines_has_a_text() -> None:
    assert {state.value for state in DeviceState} <= set(LIFE)
    assert {state.value for state in ServiceState} <= set(SERVICE)


@pytest.mark.parametrize("life", [state.value for state in DeviceState])
@pytest.mark.parametrize("service", [state.value for state in ServiceState])
def test_every_pair_of_states_is_explained(life: str, service: str) -> None:
    told = explain(replace(FINE, life=life, service=service))
    assert told.summary.endswith(".")
    assert "{" not in told.summary + "".join(told.to_do)
    assert told.to_do


def test_a_device_that_is_fine_needs_nothing() -> None:
    told = explain(FINE)
    assert "worker w3 (pid 7) serves it" in told.summary
    assert told.why == []
    assert told.to_do == ["nothing: no action is needed"]


@pytest.mark.parametrize(
    ("changes", "why", "to_do"),
    [
        ({"service": "waiting", "reason": "/l0: No such file"}, "/l0: No such file", "heals by"),
        ({"service": "waiting", "in_flight": 3}, "3 command(s) were in flight", "heals by"),
        (
            {"service": "quarantined", "quarantine": "20 deaths in 4 s"},
            "20 deaths in 4 s",
            "obdsup device resume web",
        ),
        ({"life": "failed", "reason": "busy"}, "busy", "obdsup device remove web"),
        ({"events": (row("device.hung"),)}, "hung", "a hang is a bug"),
        ({"events": (row("worker.hung"),)}, "control thread", "no command is the cause"),
        ({"events": (row("device.slow"),)}, "answered slowly", "look at the disk"),
        ({"events": (row("device.slow", verdict="starved"),)}, "processor time", "what else runs"),
        ({"life": "restoring", "reason": "no image"}, "no image", "give it up with"),
        ({"events": (row("worker.oom"),)}, "want of memory", "more memory"),
        ({"poisoned": 1, "medium_errors": 1}, "killed worker after worker", "image verify"),
        ({"medium_errors": 2}, "2 read(s) met data", "image verify"),
        ({"foreign_resets": 1}, "another daemon reset its ring", "overlaybd-tcmu"),
        ({"service": "recovering", "standbys_ready": 0}, "no standby worker is ready", "moments"),
        ({"state_failure": "disk full"}, "disk full", "free space"),
        (
            {"rollout": "rolled_back", "rollout_reason": "w9 crashed", "is_moved_by_rollout": True},
            "rolled back: w9 crashed",
            "nothing",
        ),
    ],
)
def test_what_is_wrong_and_what_to_do(changes: dict[str, object], why: str, to_do: str) -> None:
    told = explain(replace(FINE, **changes))  # type: ignore[arg-type]
    assert any(why in line for line in told.why), told
    assert any(to_do in line for line in told.to_do), told


def test_poison_names_the_place() -> None:
    events = (row("command.poisoned", cdb="28", lba=4096, sectors=8, deaths=3),)
    told = explain(replace(FINE, poisoned=1, medium_errors=1, events=events))
    assert any("LBA 4096" in line for line in told.to_do)


def test_what_was_tried_is_told_once_for_many() -> None:
    blocked = tuple(row("device.blocked", n, reason="gone", retry_s=n) for n in range(1, 6))
    told = explain(
        replace(FINE, service="waiting", events=(*blocked, row("takeover.done", 9, worker="w4")))
    )
    assert len(told.tried) == 2
    assert told.tried[0].startswith("2026-11-25 16:00:05Z device.blocked (5 times since")
    assert "retry_s=5" in told.tried[0]
    assert told.tried[1].endswith("takeover.done worker=w4")
    assert any("5.0 s" in line for line in told.why)


def found(*facts: DeviceFacts, **others: object) -> list[str]:
    given = {
        "standbys_ready": 1, "standbys_wanted": 1, "state_failure": "", "rollout": None,
        "unclaimed": {}, "rebuilt": {}, **others,
    }  # fmt: skip
    return [p.what for p in problems(list(facts), **given)]  # type: ignore[arg-type]


def test_nothing_is_wrong_when_all_is_well() -> None:
    assert found(FINE) == []


def test_what_is_wrong_is_listed_the_most_urgent_first() -> None:
    rollout = RolloutRow("/r2", "", "rolled_back", {}, ("web",), "w9 crashed", 1.0, 2.0)
    blocked = replace(FINE, name="a", service="waiting", phase="blocked", reason="no file")
    shut = replace(FINE, name="b", service="quarantined", phase="quarantined", quarantine="20")
    sick = replace(FINE, name="c", medium_errors=2, foreign_resets=1)
    lines = found(sick, blocked, shut, standbys_ready=0, state_failure="full", rollout=rollout)
    assert [line.split(":")[0] for line in lines] == [
        "state.db can not be written",
        "device b is quarantined",
        "device a is blocked",
        "no standby worker is ready, 1 wanted",
        "the rollout to /r2 was rolled back",
        "device c",
        "device c",
    ]


def test_no_standby_wanted_is_no_standby_missed() -> None:
    assert found(FINE, standbys_ready=0, standbys_wanted=0) == []
