"""Files of a campaign, its command line, and the figures made from slices."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos.campaign.outcome import CampaignOutcome
from chaos.campaign.request import add_run_options, campaign_name, replay_command
from chaos.campaign.stalls import Stalls
from chaos.campaign.store import command_of, load_outcomes, save_outcomes
from chaos.campaign.suite import suite
from chaos.faults.base import Need
from chaos.faults.catalogue import CATALOGUE, entries, missing_needs
from chaos.rig.latency import Operation, into_slices, stall_ns
from chaos.rig.problem import RigError

OPERATIONS = st.lists(
    st.tuples(st.integers(0, 500), st.integers(0, 400)).map(lambda t: Operation(t[0], t[0] + t[1])),
    max_size=40,
)


def parse(text: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_run_options(parser)
    return parser.parse_args(shlex.split(text))


@given(OPERATIONS, st.integers(0, 900), st.integers(0, 300))
def test_stalls_over_slices_of_single_operations_are_exact(
    operations: list[Operation], begin_ns: int, length_ns: int
) -> None:
    slices = [part for operation in operations for part in into_slices([operation], 1)]
    expected = stall_ns(operations, begin_ns, begin_ns + length_ns)
    assert Stalls(slices).longest_ns(begin_ns, begin_ns + length_ns) == expected


@pytest.mark.parametrize(
    ("text", "name"),
    [("--kills 5 --devices 2", "load"), ("--hooks", "load-hooks"),
     ("--provider fuse --workloads fio --seconds 2.5 --faults all", "fuse-runc"),
     ("--provider tcmu --where guest --kernel 6.12 --runtime containerd --pause 0.5",
      "tcmu-6.12-containerd")],
)  # fmt: skip
def test_replay_command_asks_for_the_same_campaign(text: str, name: str) -> None:
    options = parse(f"{text} --seed 7")
    words = shlex.split(replay_command(options))
    again = parse(shlex.join(words[2:]))
    assert words[:2] == ["obdsup-chaos", "run"]
    assert {**vars(again), "kills": None} == {**vars(options), "kills": None}
    assert campaign_name(again) == name


def test_saved_campaigns_are_read_back_and_can_be_replayed(tmp_path: Path) -> None:
    path = tmp_path / "chaos.json"
    saved = [
        CampaignOutcome("load", "load", "host", 1, "obdsup-chaos run --seed 1"),
        CampaignOutcome("fuse-runc", "fuse", "host", 2, "obdsup-chaos run --seed 2"),
    ]
    save_outcomes(saved, path)
    assert load_outcomes(path) == saved
    assert command_of(f"{path}#1") == "obdsup-chaos run --seed 2"
    assert command_of(str(path)) == "obdsup-chaos run --seed 1"
    with pytest.raises(RigError, match="has 2 campaigns, #0 to #1"):
        command_of(f"{path}#2")


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"campaigns": [{}]}'])
def test_file_that_is_no_result_is_refused_by_name(tmp_path: Path, content: str) -> None:
    path = tmp_path / "chaos.json"
    path.write_text(content)
    with pytest.raises(RigError, match=r"no campaign at .*chaos\.json"):
        command_of(f"{path}#0")


@pytest.mark.parametrize("is_long", [False, True])
def test_every_campaign_of_the_suite_can_be_parsed_and_has_a_seed_of_its_own(is_long: bool) -> None:
    campaigns = [parse(shlex.join(words)) for words in suite(10, "fio", "fio", is_long=is_long)]
    assert [options.seed for options in campaigns] == list(range(10, 10 + len(campaigns)))
    assert sum(o.kills for o in campaigns if o.provider == "load") >= (10_000 if is_long else 2000)
    assert {options.provider for options in campaigns} == {"load", "fuse", "tcmu"}


def test_every_fault_says_what_it_does_and_an_unknown_one_is_named() -> None:
    assert [entry.fault.kind for entry in entries(["all"])] == list(CATALOGUE)
    assert all(entry.fault.about for entry in entries(["all"]))
    with pytest.raises(ValueError, match="no fault is called meteor"):
        entries(["worker-kill", "meteor"])


def test_fault_that_needs_hooks_is_not_to_be_had_without() -> None:
    (entry,) = entries(["worker-segv"])
    (missing,) = missing_needs(entry, "load", frozenset({Need.SUPERVISED}))
    assert missing == f"needs {Need.HOOKS.value}"
    assert missing_needs(entry, "load", entry.fault.needs) == []
