"""Rollouts between releases that are installed side by side, under a load that checks all."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chaos.rig import releases as rig
from chaos.rig.faultfs import FaultFs
from tests.conftest import eventually
from tests.integration.service import CommandFailed, Service, is_alive
from tests.integration.test_supervisor import commands_go_on, create, verified

pytestmark = [pytest.mark.integration]

SWAPS = 10  # on one set of devices: the load writes 50 MB a second, and nothing is written twice
ROUNDS = int(os.environ.get("OBDSUP_SWAP_ROUNDS", "1"))
DEVICES = ("a", "b")
OWN = "0.1.0"

AFTER_ATTACH = """
_attach = attach
def attach(device, engine, request):
    end = _attach(device, engine, request)
    import os, signal, threading
    threading.Timer(0.1, {does}).start()
    return end
"""
CRASHES = AFTER_ATTACH.format(does="os.abort")
NEVER_STARTS = "import sys; sys.exit(7)"
FINDS_ANOTHER_SIZE = """
_ensure_open_good = _ensure_open
def _ensure_open(device, files):
    _ensure_open_good(device, files)
    device.size_bytes = device.image.size_bytes - 512
"""
READS_ANOTHER_FILE = """
_ensure_open_good = _ensure_open
def _ensure_open(device, files):
    lowers = [path.replace({old!r}, {new!r}) for path in files.lowers]
    _ensure_open_good(device, ImageFiles(lowers, files.upper))
"""


def make_release(root: Path, version: str, faults: dict[str, str] | None = None) -> Path:
    """A release beside the one under test; ``faults``: code at the end of files of its package."""
    made = rig.make_release(root, version)
    (package,) = made.glob("lib/*/site-packages/obdsup")
    for name, code in (faults or {}).items():
        with (package / name).open("a") as file:
            file.write(f"\n\n{code}\n")
    return made


@pytest.fixture
def service(load_service: Service) -> Service:
    return load_service


@pytest.fixture
def devices(service: Service, image: Path) -> tuple[str, ...]:
    """Two devices, each under a load that checks all it reads."""
    for name in DEVICES:
        create(service, image, name)
        commands_go_on(service, name)
    return DEVICES


def make_layer(service: Service, folder: Path) -> Path:
    """A compressed layer of a random disk, and device "a" that reads it under load."""
    words = random.Random(7)
    raw, layer, config = folder / "disk.raw", folder / "good.obd", folder / "config.v1.json"
    raw.write_bytes(b"".join(words.randbytes(16) * 256 for _ in range(512)))
    service.call("image", "import", str(raw), "-o", str(layer), "--zfile", "lz4")
    config.write_text(json.dumps({"lowers": [{"file": str(layer)}]}))
    service.call("device", "create", "a", "--image", str(config))
    commands_go_on(service)
    return layer


def upgrade(service: Service, to: Path, *options: str) -> Any:
    return service.call("upgrade", "--to", str(to), "--workers-only", *options)


def rolled_back(service: Service, to: Path, *options: str) -> str:
    """Rolls a bad release out; the reason it gave for taking it back."""
    with pytest.raises(CommandFailed) as caught:
        upgrade(service, to, *options)
    assert caught.value.code == 16, caught.value
    report = service.call("upgrade", "status")
    assert report["state"] == "rolled_back", report
    assert report["reason"] in caught.value.stdout
    return str(report["reason"])


def releases(service: Service) -> set[str]:
    """What the workers of all devices say they are."""
    rows = service.call("device", "list")
    return {row["worker"]["release"] if row["worker"] else "" for row in rows}


def all_is_well(service: Service, devices: tuple[str, ...], version: str = OWN) -> None:
    """Every device is served by that release, goes on, and never saw a wrong byte or an error."""
    assert releases(service) == {version}
    assert "ring.reset" not in [row["event"] for row in service.call("events")]
    for name in devices:
        commands_go_on(service, name)
        verified(service, name)


@pytest.mark.parametrize("_round", range(ROUNDS))
def test_releases_are_swapped_under_load_in_both_directions(
    service: Service, devices: tuple[str, ...], _round: int
) -> None:
    new = make_release(service.root / "new", "0.2.0")
    old = make_release(service.root / "old", "0.0.9")
    for number in range(SWAPS):
        target, version = ((new, "0.2.0"), (old, "0.0.9"))[number % 2]
        report = upgrade(service, target, "--watch", "0.1s")
        assert report["state"] == "done"
        assert sorted(report["moved"]) == list(devices)
        assert report["left"] == []
        assert releases(service) == {version}
    assert {service.show(name)["takeovers"] for name in devices} == {0}
    print([row["fields"]["stall_ms"] for row in service.call("events")
           if row["event"] == "handoff.done"])  # fmt: skip
    all_is_well(service, devices, version)


def test_new_devices_come_from_the_release_that_was_rolled_out(
    service: Service, image: Path
) -> None:
    new = make_release(service.root / "new", "0.2.0")
    assert upgrade(service, new, "--watch", "0s")["state"] == "done"
    create(service, image)
    assert releases(service) == {"0.2.0"}
    service.kill_supervisor()
    service.start()
    create(service, image, "b")
    assert releases(service) == {"0.2.0"}
    assert upgrade(service, new)["is_same"]
    all_is_well(service, ("a", "b"), "0.2.0")


def test_the_supervisor_follows_its_workers_and_goes_back_with_them(
    service: Service, devices: tuple[str, ...]
) -> None:
    """The next release calls its workers' releases by other names: what was kept must still fit."""
    new = make_release(service.root / "new", "0.2.0")
    old, pid = Path(service.call("upgrade", "status")["release_of_supervisor"]), 0
    for target, version in ((new, "0.2.0"), (old, OWN)):
        report = service.call("upgrade", "--to", str(target), "--watch", "0.1s")
        assert report["supervisor"]["to"] == version
        eventually(lambda version=version: service.call("status")["release"] == version, 60)
        assert pid in (0, service.call("status")["pid"])
        pid = service.call("status")["pid"]
        assert releases(service) == {version}
        assert service.call("upgrade", "status")["left"] == []
        assert service.call("upgrade", "--to", str(target))["is_same"]
    assert {service.show(name)["takeovers"] for name in devices} == {0}
    all_is_well(service, devices)


def test_a_release_that_crashes_is_rolled_back(service: Service, devices: tuple[str, ...]) -> None:
    bad = make_release(service.root / "bad", "0.2.0", {"worker/device.py": CRASHES})
    reason = rolled_back(service, bad, "--watch", "5s")
    assert "device a: worker" in reason
    assert "SIGABRT" in reason
    assert service.call("upgrade", "status")["moved"] == ["a"], "more than the canary moved"
    all_is_well(service, devices)


def test_a_release_that_does_not_start_moves_nothing(
    service: Service, devices: tuple[str, ...]
) -> None:
    bad = make_release(service.root / "bad", "0.2.0", {"worker/process.py": NEVER_STARTS})
    pids = [service.worker_pid(name) for name in devices]
    assert "exit status 7" in rolled_back(service, bad)
    assert [service.worker_pid(name) for name in devices] == pids
    all_is_well(service, devices)


def test_a_release_that_finds_another_size_moves_nothing(
    service: Service, devices: tuple[str, ...]
) -> None:
    bad = make_release(service.root / "bad", "0.2.0", {"worker/device.py": FINDS_ANOTHER_SIZE})
    reason = rolled_back(service, bad, "--watch", "1s")
    assert f"has {1 << 30} bytes, it finds {(1 << 30) - 512}" in reason
    all_is_well(service, devices)


def test_a_release_that_can_not_read_what_the_old_one_reads_is_rolled_back(
    service: Service, tmp_path: Path
) -> None:
    layer, spoiled = make_layer(service, tmp_path), tmp_path / "evil.obd"
    data = bytearray(layer.read_bytes())
    for offset in range(len(data) // 4, len(data) // 2):
        data[offset] ^= 0xFF
    spoiled.write_bytes(data)
    code = READS_ANOTHER_FILE.format(old=str(layer), new=str(spoiled))
    bad = make_release(service.root / "bad", "0.2.0", {"worker/device.py": code})
    assert "medium error" in rolled_back(service, bad, "--watch", "5s")
    before = service.show("a")["medium_errors"]
    commands_go_on(service)
    assert service.show("a")["medium_errors"] == before, "the old release still serves errors"
    assert releases(service) == {OWN}


class Meddler:
    """Does something to every worker of a release that serves a device, until closed."""

    def __init__(self, service: Service, version: str, act: Callable[[int], object]) -> None:
        self._service = service
        self._version = version
        self._act = act
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._is_over.wait(0.02):
            for row in self._service.call("device", "list"):
                worker = row["worker"]
                if worker and worker["release"] == self._version and is_alive(worker["pid"]):
                    self._act(worker["pid"])

    def close(self) -> None:
        self._is_over.set()
        self._thread.join()


@pytest.fixture
def meddle(service: Service) -> Iterator[Callable[[str, Callable[[int], object]], None]]:
    started: list[Meddler] = []
    yield lambda version, act: started.append(Meddler(service, version, act))
    for one in started:
        one.close()


def signal_if_alive(pid: int, number: signal.Signals) -> None:
    if is_alive(pid):
        os.kill(pid, number)


def test_a_release_that_hangs_is_rolled_back(
    service: Service,
    devices: tuple[str, ...],
    meddle: Callable[[str, Callable[[int], object]], None],
) -> None:
    new = make_release(service.root / "new", "0.2.0")
    meddle("0.2.0", lambda pid: signal_if_alive(pid, signal.SIGSTOP))
    reason = rolled_back(service, new, "--watch", "60s")
    assert reason.startswith("device a: ")
    all_is_well(service, devices)


@pytest.mark.host
def test_a_release_that_is_slow_is_rolled_back(service: Service, tmp_path: Path) -> None:
    layer = make_layer(service, tmp_path)
    with FaultFs(tmp_path, service.root / "slow") as slow:
        code = READS_ANOTHER_FILE.format(old=str(layer), new=str(slow.mount_point / layer.name))
        new = make_release(service.root / "new", "0.2.0", {"worker/device.py": code})
        slow.delay(layer.name, 300)
        assert "the mean latency went from" in rolled_back(service, new, "--watch", "60s")
        commands_go_on(service)
        assert releases(service) == {OWN}
        service.call("device", "remove", "a")


def test_a_release_with_another_journal_gets_the_devices_drained(
    service: Service, devices: tuple[str, ...]
) -> None:
    other = make_release(service.root / "new", "0.2.0", {"state/journal.py": "LAYOUT_VERSION = 2"})
    assert upgrade(service, other, "--watch", "0.1s")["state"] == "done"
    drained = [row for row in service.call("events") if row["event"] == "handoff.drained"]
    assert [row["device"] for row in drained] == list(devices)
    assert {(row["fields"]["journal"], row["fields"]["reads"]) for row in drained} == {(1, 2)}
    all_is_well(service, devices, "0.2.0")


def test_a_supervisor_killed_in_the_watch_goes_on_with_it(
    service: Service, devices: tuple[str, ...]
) -> None:
    new = make_release(service.root / "new", "0.2.0")
    thread = threading.Thread(
        target=service.run, args=("upgrade", "--to", str(new), "--workers-only", "--watch", "3s")
    )
    thread.start()
    eventually(lambda: service.call("upgrade", "status")["state"] == "watching", 30)
    service.kill_supervisor()
    thread.join()
    service.start()
    eventually(lambda: service.call("upgrade", "status")["state"] == "done", 60)
    assert {service.show(name)["takeovers"] for name in devices} == {0}
    all_is_well(service, devices, "0.2.0")


def test_an_abort_takes_back_what_has_moved(service: Service, devices: tuple[str, ...]) -> None:
    new = make_release(service.root / "new", "0.2.0")
    args = ("upgrade", "--to", str(new), "--workers-only", "--watch", "1h")
    thread = threading.Thread(target=service.run, args=args)
    thread.start()
    eventually(lambda: service.call("upgrade", "status")["state"] == "watching", 30)
    assert service.run(*args).returncode == 20, "one at a time"
    report = service.call("upgrade", "abort")
    thread.join()
    assert (report["state"], report["reason"]) == ("rolled_back", "aborted by the operator")
    assert service.run("upgrade", "abort").returncode == 12, "nothing is under way"
    all_is_well(service, devices)


def test_what_is_no_release_is_refused_by_name(service: Service) -> None:
    with pytest.raises(CommandFailed, match="is no release") as caught:
        upgrade(service, service.root)
    assert caught.value.code == 10
    other = make_release(
        service.root / "other", "9.0.0", {"state/messages.py": "PROTOCOL_VERSION = 99"}
    )
    with pytest.raises(CommandFailed, match="speaks control protocol 98 to 99, this supervisor 1"):
        upgrade(service, other)
