"""Processes killed at random moments of a rollout: no command is lost, the end is a legal one.

Which process dies when is drawn from a seed, which every failure names:
``OBDSUP_KILL_SEED=N OBDSUP_KILL_ROLLOUTS=50 pytest tests/integration/test_upgrade_kills.py``.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from chaos.rig.releases import make_release
from tests.conftest import eventually
from tests.integration.service import CommandFailed, Service, is_alive
from tests.integration.test_supervisor import commands_go_on, create, verified

pytestmark = [pytest.mark.integration]

SEED = int(os.environ.get("OBDSUP_KILL_SEED", "7"))
ROLLOUTS = int(os.environ.get("OBDSUP_KILL_ROLLOUTS", "2"))
DEVICES = ("a", "b", "c")
VICTIMS = ("old", "new", "standby", "supervisor")
KILLS_MAX = 3
OVER = ("done", "rolled_back")


class Rollout:
    """One ``upgrade`` with a watch of half a second, in a thread: it may lose its supervisor."""

    def __init__(self, service: Service, target: Path) -> None:
        self.done: subprocess.CompletedProcess[str] | None = None
        self._service = service
        options = ("--workers-only", "--batch", "1", "--watch", "0.5s")
        self._args = ("upgrade", "--to", str(target), *options)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        self.done = self._service.run(*self._args)

    def join(self) -> None:
        self._thread.join(110)
        assert self.done is not None, "the upgrade does not end"


def pids(service: Service, target: str) -> dict[str, list[int]]:
    """Whom a kill may meet now, by what they are in the rollout; empty while nobody answers."""
    done = service.run("status")
    if done.returncode:
        return {}
    found: dict[str, list[int]] = {kind: [] for kind in VICTIMS}
    for row in service.call("status")["workers"]:
        kind = "standby" if not row["devices"] else "new" if row["release"] == target else "old"
        found[kind].append(row["pid"])
    found["supervisor"] = [service.supervisor_pid]
    return found


def kill_one(service: Service, target: str, rng: random.Random) -> str:
    """Kills one process of a kind that there is; says which. A supervisor is started again."""
    there = {kind: one for kind, one in pids(service, target).items() if one}
    kind = rng.choice(sorted(there)) if there else ""
    if kind == "supervisor":
        service.kill_supervisor()
        service.start()
    elif kind:
        pid = rng.choice(there[kind])
        if is_alive(pid):
            os.kill(pid, signal.SIGKILL)
    return kind


def is_settled(service: Service) -> bool:
    """The rollout is over and every device is served again."""
    try:
        state = service.call("upgrade", "status")["state"]
        rows = service.call("device", "list")
    except CommandFailed:
        return False
    return state in OVER and all(
        row["phase"] == "online" and row["worker"] and is_alive(row["worker"]["pid"])
        for row in rows
    )


def check_end(service: Service, target: Path, origin: Path, story: str) -> str:
    """Done, with every device there; or rolled back, with none there and a reason; or it never
    began, because the supervisor died with the request: then nothing moved. Says which."""
    report: dict[str, Any] = service.call("upgrade", "status")
    state = report["state"] if report["started"] > 0 and report["target"] == str(target) else "lost"
    expected = target if state == "done" else origin
    rows = service.call("device", "list")
    versions = {row["name"]: row["worker"]["release"] for row in rows}
    told = json.dumps([story, report, versions, service.call("events")[-60:]], indent=1)
    assert set(versions.values()) == {expected.name}, told
    if state == "done":
        assert (report["left"], report["reason"]) == ([], ""), told
    elif state == "rolled_back":
        assert report["reason"], told
    return f"{state} {report['reason']}"


def test_kills_at_random_moments_of_rollouts_lose_nothing(
    load_service: Service, image: Path
) -> None:
    service, rng = load_service, random.Random(SEED)
    for name in DEVICES:
        create(service, image, name)
        commands_go_on(service, name)
    paths = {version: make_release(service.root / version, version) for version in ("1", "2")}
    origin, target = paths["1"], paths["2"]
    service.call("upgrade", "--to", str(origin), "--workers-only", "--watch", "0s")
    for number in range(ROLLOUTS):
        rollout = Rollout(service, target)
        killed = []
        for _ in range(rng.randint(1, KILLS_MAX)):
            threading.Event().wait(rng.uniform(0.0, 1.5))  # the moment is what is random here
            killed.append(kill_one(service, target.name, rng))
        rollout.join()
        story = f"seed {SEED}, rollout {number}: {', '.join(killed)}"
        eventually(lambda: is_settled(service), 100)
        end = check_end(service, target, origin, story)
        print(f"{story}: {end}")
        if end.startswith("done"):
            origin, target = target, origin
    events = [row["event"] for row in service.call("events")]
    assert "rollout.failed" not in events
    assert "ring.reset" not in events
    for name in DEVICES:
        commands_go_on(service, name)
        verified(service, name)
