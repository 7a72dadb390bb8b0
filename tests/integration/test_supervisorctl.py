"""supervisorctl on real workers under a load whose every read is checked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPO
from tests.integration.service import Service
from tests.integration.test_supervisor import (
    commands_go_on,
    create,
    is_served_by_another,
    verified,
)

pytestmark = [pytest.mark.integration]


def supervisorctl(service: Service, *arguments: str) -> str:
    command = str(Path(sys.executable).parent / "supervisorctl")
    config = str(REPO / "packaging" / "supervisorctl.conf")
    url = f"unix://{service.run_dir}/supervisor.sock"
    done = subprocess.run(
        [command, "-c", config, "-s", url, *arguments],
        capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    return done.stdout


def test_restart_of_a_worker_drains_it_and_moves_its_device(
    load_service: Service, image: Path
) -> None:
    create(load_service, image)
    load_service.wait_for_standby()
    shown = load_service.show("a")["worker"]
    commands_go_on(load_service)
    text = supervisorctl(load_service, "restart", f"workers:{shown['id']}")
    assert f"workers:{shown['id']}: stopped" in text
    assert f"workers:{shown['id']}: started" in text
    assert is_served_by_another(load_service, shown["pid"])
    commands_go_on(load_service)
    stopped = [
        row["fields"]
        for row in load_service.call("events", "--event", "worker.stopped")
        if row["fields"]["worker"] == shown["id"]
    ]
    assert stopped, "it ended by itself, with nothing in flight: no death"
    assert load_service.show("a")["recovered"] == 0
    now = load_service.show("a")["worker"]
    assert f"RUNNING   pid {now['pid']}" in supervisorctl(load_service, "status")
    log = load_service.run_dir / "logs" / f"worker-{now['id']}.log"
    last = log.read_text().splitlines()[-1]
    assert last in supervisorctl(load_service, "tail", f"workers:{now['id']}")
    table = supervisorctl(load_service, "obdsup", "devices").splitlines()
    assert table[1].split()[:2] == ["a", "online"]
    verified(load_service)


def test_top_sees_the_load(load_service: Service, image: Path) -> None:
    create(load_service, image)
    commands_go_on(load_service)
    line = load_service.call("top", "--once", "--interval", "0.5")
    (device,) = line["devices"]
    assert device["iops"] > 0
    assert device["read_mbps"] + device["write_mbps"] > 0
    assert device["in_flight"] >= 0
    if device["in_flight"]:
        assert device["latency_ms"] == pytest.approx(device["in_flight"] / device["iops"] * 1000)
    assert device["release"] == load_service.call("status")["release"]
    verified(load_service)
