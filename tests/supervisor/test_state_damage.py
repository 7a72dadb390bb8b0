"""A supervisor over a damaged state.db: starts, keeps all devices served, says what happened.

OBDSUP_DAMAGE_SEEDS=n tries n damages before a start instead of a few.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import eventually
from tests.state.test_damage import DAMAGES, cut, delete, empty, overwrite, replace_by_garbage
from tests.supervisor.fake_service import FakeService

pytestmark = [pytest.mark.integration]

NAMES = ("a", "b", "c")
SEEDS = int(os.environ.get("OBDSUP_DAMAGE_SEEDS", "4"))
KEPT = ("uuid", "image", "size_bytes", "writable", "phase", "provider")


def facts(service: FakeService) -> dict[str, list[object]]:
    rows = service.client.call("device.list")
    return {row["name"]: [row[key] for key in KEPT] for row in rows}


def create_all(service: FakeService) -> dict[str, list[object]]:
    for name in NAMES:
        service.create(name, writable=True)
    service.wait_for_standby()
    return facts(service)


def has_worker(service: FakeService, name: str, pid: int) -> bool:
    worker = service.show(name)["worker"]
    return worker is not None and worker["pid"] == pid


def state_rebuilt(service: FakeService) -> str:
    return str(service.client.call("status")["state_rebuilt"])


def strike(service: FakeService, damage: Callable[[Path, random.Random], None], seed: str) -> None:
    """Somewhere in the file or in its log; waits for one that can be damaged."""
    chance = random.Random(seed)
    paths = [service.root / "state" / name for name in ("state.db", "state.db-wal")]
    found = eventually(lambda: [p for p in paths if p.exists() and p.stat().st_size], 40)
    damage(chance.choice(found), chance)


def test_damage_before_a_start_costs_no_device(service: FakeService) -> None:
    """Workers serve on; every second time they die as well, and are replaced from the rows."""
    before = create_all(service)
    for seed in range(SEEDS):
        is_served = seed % 2 == 0
        pids = {name: service.worker_pid(name) for name in NAMES}
        service.kill()
        if not is_served:
            for pid in pids.values():
                os.kill(pid, 9)
        strike(service, DAMAGES[seed // 2 % len(DAMAGES)], f"start {seed}")
        service.start()
        eventually(lambda: facts(service) == before, 60)
        for name in NAMES:
            if is_served:
                eventually(lambda name=name, pid=pids[name]: has_worker(service, name, pid), 20)  # type: ignore[misc]
            else:
                service.online_with_other_worker(name, pids[name])
        # Those that were lost together are spread over workers again by hand-overs.
        eventually(lambda: len({service.worker_pid(name) for name in NAMES}) == len(NAMES), 40)
        service.wait_for_standby()
    assert "Traceback" not in service.log_text()


@pytest.mark.parametrize("damage", [delete, replace_by_garbage])
def test_a_start_without_a_database_says_so(
    service: FakeService, damage: Callable[[Path, random.Random], None]
) -> None:
    before = create_all(service)
    service.kill()
    (service.root / "state" / "state.db-wal").unlink(missing_ok=True)
    damage(service.root / "state" / "state.db", random.Random(1))
    service.start()
    eventually(lambda: facts(service) == before, 60)
    assert "copies beside the journals" in state_rebuilt(service)
    (event,) = service.events("state.rebuilt")
    assert "a,b,c" in str(event["fields"])


@pytest.mark.parametrize("damage", [overwrite, cut, delete, replace_by_garbage, empty])
def test_damage_while_it_runs_is_said_and_undone(
    service: FakeService, damage: Callable[[Path, random.Random], None]
) -> None:
    before = create_all(service)
    lost = service.kill_worker("a")
    for seed in range(3):  # often enough that one of them hits something that counts
        strike(service, damage, f"{damage.__name__} {seed}")
    service.online_with_other_worker("a", lost)
    if damage is not overwrite:  # bytes that nobody reads are no damage
        eventually(lambda: state_rebuilt(service), 40)
        assert service.events("state.rebuilt")
    eventually(lambda: not service.client.call("status")["state_failure"], 40)
    service.kill()
    service.start()
    eventually(lambda: facts(service) == before, 60)


def test_the_id_of_a_living_worker_is_not_used_again(service: FakeService) -> None:
    """The rows of workers have no copies: with them gone, what lives is found by its socket."""
    service.create("a")
    service.wait_for_standby()
    lives = {row["id"]: row["pid"] for row in service.client.call("status")["workers"]}
    served = service.worker_pid("a")
    service.kill()
    os.kill(served, 9)
    for path in (service.root / "state").glob("state.db*"):
        path.unlink()
    service.start()
    service.online_with_other_worker("a", served)
    service.wait_for_standby()
    spawned = {row["fields"]["worker"] for row in service.events("worker.spawned")}
    assert spawned
    assert not spawned & lives.keys()
