"""Planted bugs: real workers with a fault in them are caught, and sound ones are not accused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from chaos.planted.__main__ import main
from chaos.planted.bugs import BUGS, CONTROLS, NOT_PASSED, Bug, bug_named
from chaos.planted.power_cut import KIND, run_power_cuts
from chaos.planted.trial import Verdict, run_trial
from chaos.rig.failpoints import POINTS
from chaos.rig.problem import RigError
from tests.conftest import REPO

DAMAGE = {"lost", "stale", "misplaced", "corrupt"}
EVENTS = 40


def test_every_fault_of_the_sources_is_planted() -> None:
    header = (REPO / "native" / "src" / "obd_crash.h").read_text()
    known = set(re.findall(r"X\((\w+)\)\s+/\*", header))
    named = {bug.name for bug in BUGS} | {name for bug in BUGS for name in bug.with_}
    assert named == known
    assert len({bug.name for bug in BUGS}) == len(BUGS) == 21


def test_what_bugs_are_planted_with_is_also_tried_alone() -> None:
    alone = {name for control in CONTROLS for name in control.with_}
    # without any lock and with one predecessor serving on, the generation is all there is
    assert {name for bug in BUGS for name in bug.with_} - alone == {"no_lock"}
    assert all(not control.name for control in CONTROLS)


def test_control_dies_at_every_point_but_those_it_names() -> None:
    control = next(control for control in CONTROLS if control.about == "deaths at every point")
    assert set(control.events) == set(POINTS) - NOT_PASSED
    assert set(POINTS) >= NOT_PASSED
    assert len(control.events) >= 50


def test_verdict_wants_bugs_caught_and_controls_clean() -> None:
    bug, control = bug_named("drop_write"), CONTROLS[0]
    assert Verdict(bug, 1, {"lost": 1}).is_as_wanted
    assert Verdict(control, 1).is_as_wanted
    assert not Verdict(bug, 1).is_as_wanted
    assert not Verdict(control, 1, {"stale": 1}).is_as_wanted
    assert not Verdict(control, 1, has_failed=True).is_as_wanted


def test_unknown_bug_is_refused() -> None:
    with pytest.raises(RigError, match="no bug 'nix': one of skip_record"):
        bug_named("nix")
    assert main(["--bug", "nix"]) == 2


@pytest.mark.chaos
@pytest.mark.host
@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("skip_record", {"journal refused"}),
        ("publish_twice", {"ring broken"}),
        ("no_high_water_mark", DAMAGE),
        ("wrong_lba", {"misplaced"}),
        ("drop_write", {"lost", "stale"}),
        ("two_devices_mixed", {"misplaced"}),
    ],
)
def test_bug_is_caught(name: str, kinds: set[str]) -> None:
    bug = bug_named(name)
    verdict = run_trial(bug, bug.seed, EVENTS)
    assert verdict.caught_by, verdict
    assert kinds & verdict.caught_by.keys(), verdict


@pytest.mark.chaos
@pytest.mark.host
def test_sound_worker_is_not_accused() -> None:
    control = CONTROLS[0]
    verdict = run_trial(control, control.seed, len(control.events))
    assert not verdict.caught_by, verdict
    assert verdict.kills >= len(control.events) - 2  # all events but a hand-over and a pause
    assert verdict.commands


@pytest.mark.chaos
@pytest.mark.host
def test_reserved_extents_survive_data_that_lands_late() -> None:
    bug = bug_named("no_high_water_mark")
    sound = Bug("", "the same without the bug", bug.seed, bug.events, bug.load, bug.with_)
    assert not run_trial(sound, sound.seed, 10).caught_by


@pytest.mark.chaos
@pytest.mark.host
def test_power_cut_tells_a_flush_from_none() -> None:
    bug = bug_named("sync_nothing")
    assert run_power_cuts(bug, bug.seed).caught_by.get(KIND, 0) > 0
    assert not run_power_cuts(CONTROLS[-1], 1).caught_by


@pytest.mark.chaos
@pytest.mark.host
def test_command_says_what_was_caught(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "planted.json"
    assert main(["--bug", "reuse_id", "--json", str(out)]) == 0
    document = json.loads(out.read_text())
    assert document["good"]
    assert document["trials"][0]["bug"] == "reuse_id"
    assert "1 of 1 bugs caught" in capsys.readouterr().out
