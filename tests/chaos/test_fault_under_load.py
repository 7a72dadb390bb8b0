"""Faults of memory, clock, journal and state.db under ringd's checked load: they land, nothing is
lost; and without the cause none of them claims to have landed."""

from __future__ import annotations

import contextlib
import random
import signal
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from chaos.faults import environment_journal, environment_state, environment_state_live
from chaos.faults.base import Landing, Site
from chaos.faults.environment import Watch
from chaos.faults.environment_clock import ClockJump
from chaos.faults.environment_disk import FullStateDisk
from chaos.faults.environment_journal import TornJournal
from chaos.faults.environment_memory import Oom
from chaos.faults.environment_state import BrokenState, ReadOnlyState
from chaos.faults.environment_state_live import DamagedState
from chaos.rig.cgroup import MemoryCgroup, oom_kill_count
from chaos.rig.immutable import Immutable
from chaos.rig.problem import RigError
from chaos.rig.process import Process
from chaos.rig.small_disk import SmallDisk
from chaos.rig.wall_clock import WallClock
from tests.chaos.fault_site import fault_site

pytestmark = [pytest.mark.integration, pytest.mark.host]

HASTY_S = 3.0  # for what is expected to wait in vain


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with fault_site("load") as made:
        yield made


def demand_landed(landing: Landing) -> None:
    assert landing.has_landed, landing.evidence
    assert landing.wrong == ()
    assert landing.served_ns >= landing.begun_ns


def nothing(*arguments: object, **options: object) -> None:
    """In place of a cause."""


def test_oom_killer_takes_the_worker(site: Site) -> None:
    landing = Oom().inflict(site, random.Random(1))
    demand_landed(landing)
    assert landing.workers_killed == 1
    assert landing.recovered + landing.already_done > 0


def test_a_worker_that_died_of_something_else_is_no_oom(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(group: MemoryCgroup, process: Process) -> None:
        process.send(signal.SIGKILL)

    monkeypatch.setattr(MemoryCgroup, "take", kill)
    assert not Oom().inflict(site, random.Random(1)).has_landed


def test_oom_kills_are_counted_in_both_versions_of_cgroups() -> None:
    assert oom_kill_count("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n") == 3
    assert oom_kill_count("low 0\nhigh 0\nmax 5\noom 2\noom_kill 1\noom_group_kill 0\n") == 1
    with pytest.raises(RigError, match="does not count"):
        oom_kill_count("oom_kill_disable 0\nunder_oom 0\n")


@pytest.mark.parametrize("name", ["emptied", "header-byte", "slot-state"])
def test_torn_journal_means_reset_and_service(
    site: Site, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    damages = environment_journal.DAMAGES
    monkeypatch.setattr(environment_journal, "DAMAGES", {name: damages[name]})
    demand_landed(TornJournal().inflict(site, random.Random(2)))


def test_a_sound_journal_is_not_torn(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment_journal, "DAMAGES", {"none": nothing})
    landing = TornJournal().inflict(site, random.Random(2))
    assert not landing.has_landed
    assert landing.wrong == ("none: the journal was taken as sound",)


@pytest.mark.parametrize("name", ["truncated", "deleted", "torn-wal", "newer-version"])
def test_broken_state_db_stops_no_worker(
    site: Site, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    damages = environment_state.DAMAGES
    monkeypatch.setattr(environment_state, "DAMAGES", {name: damages[name]})
    demand_landed(BrokenState().inflict(site, random.Random(3)))


def test_a_sound_state_db_is_not_broken(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment_state, "DAMAGES", {"truncated": nothing})
    landing = BrokenState().inflict(site, random.Random(3))
    assert not landing.has_landed
    assert any("did not name state.db" in line for line in landing.wrong)


@pytest.mark.parametrize("name", sorted(environment_state_live.DAMAGES))
def test_a_state_db_damaged_under_the_supervisor_is_made_anew(
    site: Site, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    damages = environment_state_live.DAMAGES
    monkeypatch.setattr(environment_state_live, "DAMAGES", {name: damages[name]})
    demand_landed(DamagedState().inflict(site, random.Random(4)))


def test_a_state_db_that_is_left_alone_is_not_made_anew(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment_state_live, "DAMAGES", {"none": nothing})
    with pytest.raises(RigError, match="made anew"):
        DamagedState().inflict(replace(site, patience_s=HASTY_S), random.Random(4))


@pytest.mark.parametrize("seed", [1, 2])  # both died, only the worker
def test_read_only_state_directory_holds_up_no_take_over(site: Site, seed: int) -> None:
    demand_landed(ReadOnlyState().inflict(site, random.Random(seed)))


def test_a_writable_state_directory_is_not_read_only(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Immutable, "__enter__", nothing)
    with pytest.raises(RigError, match="a refused write"):
        ReadOnlyState().inflict(replace(site, patience_s=HASTY_S), random.Random(2))


def insert_events(site: Site, count: int, fields: str) -> int:
    """Adds events to a living state.db; returns the number of the newest."""
    with contextlib.closing(sqlite3.connect(site.node.state_dir / "state.db")) as connection:
        with connection:
            connection.executemany(
                "INSERT INTO events (ts, name, device, fields) VALUES (0, 'filler', '', ?)",
                [(fields,)] * count,
            )
        return int(connection.execute("SELECT max(seq) FROM events").fetchone()[0])


def test_newest_event_is_found_behind_more_than_one_answer_holds(site: Site) -> None:
    newest = insert_events(site, 11_000, "{}")
    watch = Watch(site)
    assert watch.last_event() >= newest
    assert watch.events_since(newest, "ring.reset") == []


def test_full_state_disk_holds_up_no_take_over(site: Site) -> None:
    # a log that was long once has room for all that is written later
    insert_events(site, 1200, "x" * 2000)
    database = contextlib.closing(sqlite3.connect(site.node.state_dir / "state.db"))
    with database as connection, connection:
        connection.execute("DELETE FROM events WHERE name = 'filler'")
    demand_landed(FullStateDisk().inflict(site, random.Random(1)))


def test_a_state_disk_with_room_is_not_full(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SmallDisk, "fill", nothing)
    with pytest.raises(RigError, match=r"state\.db can not grow"):
        FullStateDisk().inflict(replace(site, patience_s=HASTY_S), random.Random(1))


def test_a_clock_that_did_not_jump_is_seen(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WallClock, "jump", nothing)
    landing = ClockJump().inflict(site, random.Random(1))
    assert not landing.has_landed
    assert landing.wrong == ()
    assert landing.workers_killed == 2


def test_nothing_is_left_behind(site: Site) -> None:
    mounts = Path("/proc/self/mounts").read_text()
    assert str(site.folder) not in mounts
    assert str(site.node.state_dir) not in mounts
