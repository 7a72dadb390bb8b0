"""The watchdog is fed only while all threads that matter turn."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from obdsup.state.database import Database
from obdsup.supervisor.health import WRITER_LATE_S, Health
from obdsup.supervisor.systemd import Systemd


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(tmp_path / "state.db")
    yield made
    made.close()


def test_nothing_is_wrong_while_all_turn(database: Database) -> None:
    assert Health(database, lambda: None).problem() == ""


def test_a_writer_that_does_not_turn_is_named(database: Database) -> None:
    late = database.turned_s + WRITER_LATE_S + 1
    assert "writer of state.db" in Health(database, lambda: None).problem(late)


def test_a_hang_watch_that_does_not_look_is_named(database: Database) -> None:
    assert Health(database, lambda: "it sleeps").problem() == "it sleeps"


def test_the_watchdog_is_fed_only_in_good_health(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        systemd = Systemd()
        systemd.alive("")
        assert manager.recv(4096) == b"WATCHDOG=1"
        systemd.alive("the loop dreams")
        assert manager.recv(4096) == b"STATUS=not healthy: the loop dreams"
        systemd.alive("the loop dreams")
        with pytest.raises(BlockingIOError):
            manager.recv(4096)
        systemd.alive("")
        assert manager.recv(4096) == b"STATUS=healthy again\nWATCHDOG=1"
        systemd.stopping()
        assert manager.recv(4096) == b"STOPPING=1"
