"""Records as the journal gets them: decoded by the rules of its native protocol."""

from __future__ import annotations

import logging
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from obdsup.state.database import Database
from obdsup.supervisor.event_log import EventLog
from obdsup.supervisor.journald import JournalHandler
from tests.conftest import REPO


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "journal"))
        sock.settimeout(60)
        yield sock


def decode(data: bytes) -> dict[str, str]:
    found = {}
    while data:
        line, _, rest = data.partition(b"\n")
        if b"=" in line:
            name, _, value = line.partition(b"=")
            data = rest
        else:
            name = line
            (length,) = struct.unpack("<Q", rest[:8])
            value, data = rest[8 : 8 + length], rest[8 + length + 1 :]
        found[name.decode()] = value.decode()
    return found


@pytest.fixture
def events(tmp_path: Path) -> Iterator[EventLog]:
    """An event log whose records go to the journal and nowhere else."""
    handler = JournalHandler(tmp_path / "journal")
    log = logging.getLogger("obdsup")
    log.addHandler(handler)
    before, log.propagate = log.propagate, False
    level = log.level
    log.setLevel(logging.INFO)
    database = Database(tmp_path / "state.db")
    yield EventLog(database)
    database.close()
    log.removeHandler(handler)
    log.propagate = before
    log.setLevel(level)
    handler.close()


def test_an_event_is_an_entry_with_fields(journal: socket.socket, events: EventLog) -> None:
    events.emit(
        "takeover.done", "web", level=logging.WARNING, dur_ms=3.5, reason="two\nlines", gen=4
    )
    entry = decode(journal.recv(65536))
    assert entry["OBDSUP_EVENT"] == "takeover.done"
    assert entry["OBDSUP_DEVICE"] == "web"
    assert entry["OBDSUP_DUR_MS"] == "3.5"
    assert entry["OBDSUP_REASON"] == "two\nlines"
    assert (entry["OBDSUP_GEN"], entry["PRIORITY"]) == ("4", "4")
    assert entry["MESSAGE"].startswith("takeover.done dev=web")


def test_an_event_of_no_device_names_none(journal: socket.socket, events: EventLog) -> None:
    events.emit("supervisor.started", pid=7)
    entry = decode(journal.recv(65536))
    assert "OBDSUP_DEVICE" not in entry
    assert entry["OBDSUP_PID"] == "7"


def test_a_huge_value_is_cut_not_lost(journal: socket.socket, events: EventLog) -> None:
    events.emit("device.blocked", "web", reason="x" * 200_000)
    assert len(decode(journal.recv(1 << 20))["OBDSUP_REASON"]) == 32 * 1024


def test_without_a_journal_the_line_is_on_stderr(
    tmp_path: Path, events: EventLog, capsys: pytest.CaptureFixture[str]
) -> None:
    events.emit("supervisor.started", pid=7)
    assert "supervisor.started pid=7 (not in the journal" in capsys.readouterr().err


@pytest.mark.parametrize("is_ours", [True, False])
def test_the_journal_is_used_when_stderr_is_its_stream(
    tmp_path: Path, journal: socket.socket, is_ours: bool
) -> None:
    """JOURNAL_STREAM names device and inode of what systemd made stderr."""
    with (tmp_path / "stderr").open("wb") as stderr:
        found = os.fstat(stderr.fileno())
        stream = f"{found.st_dev}:{found.st_ino if is_ours else 1}"
        code = (
            "import sys; from obdsup.supervisor.journald import journal_handler;"
            "sys.exit(0 if journal_handler(sys.argv[1]) else 3)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "journal")],
            env={**os.environ, "JOURNAL_STREAM": stream},
            cwd=REPO,
            stderr=stderr,
            check=False,
        )
    assert done.returncode == (0 if is_ours else 3)
