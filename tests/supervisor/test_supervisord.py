"""supervisord's own tools on our supervisor: supervisorctl, XML-RPC, listeners, superlance."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import xmlrpc.client
from pathlib import Path
from typing import Any

import pytest
from supervisor.xmlrpc import SupervisorTransport

from obdsup.errors import ConfigError, DeviceNotFound
from obdsup.supervisor.event_listeners import parse_listener
from obdsup.supervisor.rpc_namespace import FIRST_FAULT, plain
from tests.conftest import REPO, eventually
from tests.supervisor.fake_service import FakeService, is_alive

pytestmark = [pytest.mark.integration]

BIN = Path(sys.executable).parent
LISTENER = Path(__file__).with_name("recording_listener.py")


def supervisorctl(service: FakeService, *arguments: str) -> subprocess.CompletedProcess[str]:
    url = f"unix://{service.root}/run/supervisor.sock"
    config = REPO / "packaging" / "supervisorctl.conf"
    return subprocess.run(
        [str(BIN / "supervisorctl"), "-c", str(config), "-s", url, *arguments],
        capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip


class Rpc:
    """``Rpc(service).call("obdsup.device", "a")``; closes its connection."""

    def __init__(self, service: FakeService) -> None:
        self._url = f"unix://{service.root}/run/supervisor.sock"

    def call(self, method: str, *arguments: object) -> Any:
        transport = SupervisorTransport(None, None, self._url)
        server = xmlrpc.client.ServerProxy("http://127.0.0.1", transport)
        try:
            return getattr(server, method)(*arguments)
        finally:
            transport.close()


def worker_id(service: FakeService, name: str) -> str:
    return str(service.show(name)["worker"]["id"])


# -- supervisorctl ---------------------------------------------------------------------------------
def test_status_and_tail_show_the_workers(service: FakeService) -> None:
    service.create("a")
    mine = worker_id(service, "a")
    listed = supervisorctl(service, "status").stdout
    assert f"workers:{mine} " in listed
    assert f"RUNNING   pid {service.worker_pid('a')}" in listed
    log = service.root / "run" / "logs" / f"worker-{mine}.log"
    log.write_text("the last line of its log\n")
    assert "the last line of its log" in supervisorctl(service, "tail", f"workers:{mine}").stdout


def test_restart_of_a_worker_moves_its_device(service: FakeService) -> None:
    service.create("a")
    service.wait_for_standby()
    mine, pid = worker_id(service, "a"), service.worker_pid("a")
    done = supervisorctl(service, "restart", f"workers:{mine}")
    assert f"workers:{mine}: stopped" in done.stdout
    assert f"workers:{mine}: started" in done.stdout
    assert not is_alive(pid)
    service.online_with_other_worker("a", pid)
    assert worker_id(service, "a") != mine
    # Started again, it is a standby: perhaps one too many, and stopped already.
    spawned = [row["fields"] for row in service.events("worker.spawned")]
    again = [row["pid"] for row in spawned if row["worker"] == mine]
    assert len(again) == 2
    assert again[0] == pid


@pytest.mark.parametrize("command", ["reread", "update", "reload", "maintail", "avail", "pid"])
def test_what_supervisorctl_asks_for_else_leaves_the_supervisor_standing(
    service: FakeService, command: str
) -> None:
    service.create("a")
    pid = service.worker_pid("a")
    supervisorctl(service, command)
    assert service.show("a")["phase"] == "online"
    assert service.worker_pid("a") == pid
    assert is_alive(service.process.pid)  # type: ignore[union-attr]


def test_the_plug_in_shows_devices_and_hands_over(service: FakeService) -> None:
    service.create("a")
    service.wait_for_standby()
    listed = supervisorctl(service, "obdsup", "devices").stdout
    assert listed.splitlines()[0].split()[:2] == ["NAME", "PHASE"]
    assert listed.splitlines()[1].split()[:2] == ["a", "online"]
    pid = service.worker_pid("a")
    done = supervisorctl(service, "obdsup", "handover", "a")
    assert done.returncode == 0, done.stdout
    assert service.worker_pid("a") != pid
    assert "handoff.done" in supervisorctl(service, "obdsup", "events").stdout


def test_a_device_in_quarantine_is_explained_and_resumed(idle: FakeService) -> None:
    idle.start("--quarantine-deaths", "3")
    idle.wait_for_standby()
    idle.create("a")
    (idle.root / "img" / "crash-serve").touch()
    idle.kill_worker("a")
    eventually(lambda: idle.show("a")["phase"] == "quarantined", 60)
    (idle.root / "img" / "crash-serve").unlink()
    status = idle.client.call("status")
    assert status["problems"][0]["what"].startswith("device a is quarantined")
    told = supervisorctl(idle, "obdsup", "explain", "a").stdout
    assert "workers in a row died" in told
    assert "obdsup device resume a" in told
    done = supervisorctl(idle, "obdsup", "resume", "a")
    assert done.returncode == 0, done.stdout
    eventually(lambda: idle.show("a")["phase"] == "online", 20)


@pytest.mark.parametrize(
    "words", [["handover", "nosuch"], ["explain"], ["nonsense"], [], ["devices", "extra"]]
)
def test_the_plug_in_fails_with_a_message(service: FakeService, words: list[str]) -> None:
    done = supervisorctl(service, "obdsup", *words)
    assert done.returncode != 0
    assert done.stdout.strip()
    assert "Traceback" not in done.stdout + done.stderr


# -- XML-RPC ---------------------------------------------------------------------------------------
def test_the_namespace_answers_with_devices_and_events(service: FakeService) -> None:
    service.create("a")
    server = Rpc(service)
    assert [row["name"] for row in server.call("obdsup.devices")] == ["a"]
    assert server.call("obdsup.device", "a")["size_bytes"] == 64 << 20
    assert server.call("obdsup.events", 3)[-1]["event"]
    assert "obdsup.handover" in server.call("system.listMethods")


def test_an_error_is_a_fault_with_its_number(service: FakeService) -> None:
    with pytest.raises(xmlrpc.client.Fault, match="no device 'nosuch'") as found:
        Rpc(service).call("obdsup.device", "nosuch")
    assert found.value.faultCode == FIRST_FAULT + DeviceNotFound.exit_code


def test_a_slow_operation_holds_up_no_other(service: FakeService) -> None:
    """A hand-over that waits for its drain is answered late; the loop answers others meanwhile."""
    service.create("a")
    service.wait_for_standby()
    (service.root / "img" / "hang-drain").touch()
    url = f"unix://{service.root}/run/supervisor.sock"
    code = (
        "import sys, xmlrpc.client; from supervisor.xmlrpc import SupervisorTransport;"
        "s = xmlrpc.client.ServerProxy('http://127.0.0.1',"
        " SupervisorTransport(None, None, sys.argv[1])); print(s.obdsup.handover('a')['phase'])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, url], stdout=subprocess.PIPE, text=True
    ) as slow:
        eventually(lambda: (service.root / "img" / "hanging-drain").exists())
        assert Rpc(service).call("supervisor.getState")["statename"] == "RUNNING"
        assert slow.poll() is None
        (service.root / "img" / "hang-drain").unlink()
        assert slow.stdout is not None
        assert slow.stdout.read().strip() == "online"


def test_values_that_xml_rpc_has_not_are_made_ones_it_has() -> None:
    assert plain({"a": None, "b": 1 << 40, 3: (True, 2.5, Path("/x"))}) == {
        "a": "", "b": float(1 << 40), "3": [True, 2.5, "/x"],
    }  # fmt: skip


# -- event listeners -------------------------------------------------------------------------------
def recorded(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True)]


def of_kind(path: Path, name: str, text: str = "") -> list[dict[str, Any]]:
    return [r for r in recorded(path) if r["eventname"] == name and text in r["payload"]]


def listener(path: Path, events: str) -> list[str]:
    return ["--event-listener", f"{events}={sys.executable} {LISTENER} {path}"]


def test_listeners_are_told_of_processes_and_of_our_events(idle: FakeService) -> None:
    all_events, takeovers = idle.root / "all", idle.root / "takeovers"
    idle.start(
        *listener(all_events, "PROCESS_STATE,OBDSUP"), *listener(takeovers, "OBDSUP_TAKEOVER")
    )
    idle.wait_for_standby()
    idle.create("a")
    mine, pid = worker_id(idle, "a"), idle.kill_worker("a")
    idle.online_with_other_worker("a", pid)
    exited = eventually(lambda: of_kind(all_events, "PROCESS_STATE_EXITED", f"{mine} "), 20)
    assert f"processname:{mine} groupname:workers from_state:RUNNING" in exited[0]["payload"]
    assert f"expected:0 pid:{pid}" in exited[0]["payload"]
    eventually(lambda: of_kind(all_events, "OBDSUP_DEVICE", "event:device.online device:a"), 20)
    (told,) = eventually(lambda: recorded(takeovers), 20)
    head, fields = told["payload"].split("\n", 1)
    assert head.startswith("event:takeover.done device:a level:INFO ts:")
    assert json.loads(fields)["worker"] == worker_id(idle, "a")


def test_a_listener_that_hangs_holds_nothing_up_and_misses_nothing(idle: FakeService) -> None:
    path = idle.root / "events"
    path.with_suffix(".hang").touch()
    idle.start(*listener(path, "OBDSUP"))
    idle.wait_for_standby()
    eventually(lambda: recorded(path))
    for name in "abc":
        idle.create(name)
    pid = idle.kill_worker("a")
    idle.online_with_other_worker("a", pid)
    assert len(recorded(path)) == 1
    path.with_suffix(".hang").unlink()
    for name in "abc":
        eventually(lambda name=name: of_kind(path, "OBDSUP_DEVICE", f"device.online device:{name}"))
    eventually(lambda: of_kind(path, "OBDSUP_TAKEOVER", "device:a"))


def test_a_listener_that_dies_is_started_again_and_told_again(idle: FakeService) -> None:
    path = idle.root / "events"
    path.with_suffix(".die").touch()
    idle.start(*listener(path, "OBDSUP_SUPERVISOR"))
    rows = eventually(lambda: r if len(r := recorded(path)) >= 2 else None, 30)
    assert rows is not None
    assert rows[0]["serial"] == rows[1]["serial"], "the event it died of is given again"
    idle.create("a")


def test_a_listener_that_can_not_be_started_is_tried_again(idle: FakeService) -> None:
    missing = idle.root / "listener"
    idle.start("--event-listener", f"OBDSUP={missing}")
    idle.wait_for_standby()
    idle.create("a")
    assert "BACKOFF" in supervisorctl(idle, "status").stdout
    path = idle.root / "events"
    missing.write_text(f"#!/bin/sh\nexec {sys.executable} {LISTENER} {path}\n")
    missing.chmod(0o755)
    eventually(lambda: of_kind(path, "OBDSUP_DEVICE", "event:device.online device:a"), 30)


def test_a_supervisor_that_stops_ends_its_listeners_and_no_worker(idle: FakeService) -> None:
    path = idle.root / "events"
    idle.start(*listener(path, "OBDSUP"))
    idle.wait_for_standby()
    idle.create("a")
    info = Rpc(idle).call("supervisor.getProcessInfo", Path(sys.executable).name)
    worker = idle.worker_pid("a")
    assert idle.process is not None
    idle.process.send_signal(signal.SIGTERM)
    idle.process.wait(20)
    eventually(lambda: not is_alive(info["pid"]))
    assert is_alive(worker)


def test_a_reexec_leaves_one_listener_and_no_zombie(idle: FakeService) -> None:
    path = idle.root / "events"
    idle.start(*listener(path, "OBDSUP"))
    idle.wait_for_standby()
    name = Path(sys.executable).name
    before = Rpc(idle).call("supervisor.getProcessInfo", name)["pid"]
    started = idle.client.call("status")["started"]
    idle.client.call("reexec")
    eventually(lambda: idle.client.call("status")["started"] != started, 30)
    idle.create("a")
    eventually(lambda: of_kind(path, "OBDSUP_DEVICE", "event:device.online device:a"), 20)
    assert Rpc(idle).call("supervisor.getProcessInfo", name)["pid"] != before
    assert not Path(f"/proc/{before}").exists()


def test_superlance_mails_of_a_killed_worker(idle: FakeService) -> None:
    """crashmail as it comes: a worker that is killed is a process that exited unexpectedly."""
    mail = idle.root / "mail"
    sendmail = idle.root / "sendmail"
    sendmail.write_text(f"#!/bin/sh\ncat >> {mail}\n")
    sendmail.chmod(0o755)
    command = f"{BIN / 'crashmail'} -a -s {sendmail} -m ops@example.org"
    idle.start("--event-listener", f"PROCESS_STATE_EXITED={command}")
    idle.wait_for_standby()
    idle.create("a")
    mine, pid = worker_id(idle, "a"), idle.kill_worker("a")
    idle.online_with_other_worker("a", pid)
    eventually(lambda: mail.exists() and f"(pid {pid})" in mail.read_text(), 20)
    text = mail.read_text()
    assert f"Process {mine} in group workers exited unexpectedly" in text
    assert "To: ops@example.org" in text


@pytest.mark.parametrize(
    "text", ["OBDSUP", "OBDSUP=", "=cat", "NO_SUCH_EVENT=cat", "OBDSUP,,TICK_5=cat"]
)
def test_a_bad_listener_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigError, match="event listener"):
        parse_listener(text)


def test_a_supervisor_with_a_bad_listener_does_not_start(idle: FakeService) -> None:
    started = idle.spawn("--event-listener", "NO_SUCH_EVENT=cat")
    assert started.wait(30) == ConfigError.exit_code
    assert not os.path.exists(idle.root / "run" / "supervisor.sock")
