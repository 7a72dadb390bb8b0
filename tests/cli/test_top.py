"""The figures of ``obdsup top``, from answers made by hand; and that it leaves when told to."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest

from obdsup.cli.status import screen
from obdsup.cli.top_rates import rates, total
from tests.cli.fake_supervisor import FakeSupervisor
from tests.conftest import eventually


def answer(at_s: float, **counters: int) -> dict[str, Any]:
    zeros = {"completed": 0, "read_bytes": 0, "write_bytes": 0, "in_flight": 0}
    device = {
        "name": "web", "phase": "online", "takeovers": 2,
        "worker": {"id": "w1", "release": "0.1.0"}, "counters": {**zeros, **counters},
        "last_change": {"at": 1.0, "kind": "takeover", "stall_ms": 2.5, "recovered": 3},
    }  # fmt: skip
    return {
        "at_ns": int(at_s * 1e9), "release": "0.1.0", "devices": [device], "workers": [],
        "standbys_ready": 1, "standbys_wanted": 1, "rollout": None,
    }  # fmt: skip


def test_rates_are_per_second_and_latency_is_littles_law() -> None:
    before = answer(10, completed=1000, read_bytes=0)
    after = answer(12, completed=5000, read_bytes=16_000_000, write_bytes=2_000_000, in_flight=8)
    (row,) = rates(before, after, [{"web": 4}, {"web": 0}])
    assert (row.iops, row.read_mbps, row.write_mbps) == (2000, 8.0, 1.0)
    assert row.in_flight == 4
    assert row.latency_ms == pytest.approx(2.0)
    assert (row.stall_ms, row.recovered, row.worker) == (2.5, 3, "w1")


def test_a_device_that_completed_nothing_has_no_latency() -> None:
    (row,) = rates(answer(1, completed=7), answer(2, completed=7, in_flight=3), [])
    assert (row.iops, row.latency_ms) == (0, None)


def test_a_journal_that_was_started_over_gives_no_negative_rate() -> None:
    (row,) = rates(answer(1, completed=900), answer(2, completed=3), [])
    assert row.iops == 0


def test_a_new_device_has_no_rate_yet() -> None:
    before = answer(1)
    before["devices"] = []
    (row,) = rates(before, answer(2, completed=10), [])
    assert row.iops == 0


def test_the_total_has_the_latency_of_the_mean_command() -> None:
    rows = rates(answer(1), answer(2, completed=1000, in_flight=2), [])
    both = total([*rows, *rows])
    assert (both.iops, both.in_flight) == (2000, 4)
    assert both.latency_ms == pytest.approx(2.0)


def test_status_of_an_older_supervisor_is_shown_without_what_it_lacks() -> None:
    lines = screen({"pid": 1, "release": "0.0.9", "devices": {"online": 2}}, 5.0)
    assert "devices    2: 2 online" in "\n".join(lines)


def test_status_lists_the_first_problems_and_says_how_many_more() -> None:
    many = [{"what": f"device d{n} is blocked", "next": "x", "device": ""} for n in range(30)]
    lines = screen({"pid": 1, "problems": many}, 5.0)
    assert "  and 18 more" in lines[-1]


@pytest.mark.parametrize("end", ["key", "interrupt"])
def test_live_top_leaves_with_q_and_with_ctrl_c_and_gives_the_terminal_back(
    tmp_path: Path, end: str
) -> None:
    ok = {"ok": True, "result": answer(1)}
    supervisor = FakeSupervisor(
        tmp_path / "run", {"top": [ok], "top.in_flight": [{"ok": True, "result": {}}]}
    )
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    command = [sys.executable, "-m", "obdsup.cli", "--run-dir", str(tmp_path / "run"), "top"]
    shown = b""
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "160", "LINES": "24"},
    )  # fmt: skip
    with process:
        while b"web" not in shown:
            shown += os.read(ours, 65536)
        os.set_blocking(ours, False)
        if end == "key":
            os.write(ours, b"q")
        else:
            process.send_signal(signal.SIGINT)

        def is_over() -> bool:
            with contextlib.suppress(BlockingIOError):
                os.read(ours, 65536)
            return process.poll() is not None

        eventually(is_over)
    assert process.returncode == (0 if end == "key" else 130)
    assert termios.tcgetattr(theirs) == before
    for fd in (ours, theirs):
        os.close(fd)
    supervisor.close()
