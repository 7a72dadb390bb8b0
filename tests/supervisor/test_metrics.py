"""Metrics of a running supervisor, read by prometheus_client's own parser."""

from __future__ import annotations

import http.client
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from obdsup.errors import ConfigError
from obdsup.supervisor.metrics_server import parse_address
from tests.conftest import eventually
from tests.supervisor.fake_service import FakeService

pytestmark = [pytest.mark.integration]


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(30)
        self.sock.connect(str(self._path))


def scrape(connection: http.client.HTTPConnection) -> dict[tuple[str, str], float]:
    """Value by (name, labels joined by commas)."""
    connection.request("GET", "/metrics")
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    assert response.status == 200, text
    return {
        (sample.name, ",".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_devices_workers_and_take_overs_are_counted(idle: FakeService) -> None:
    idle.start("--metrics", "unix")
    idle.wait_for_standby()
    idle.create("a")
    pid = idle.kill_worker("a")
    idle.online_with_other_worker("a", pid)
    idle.wait_for_standby()
    path = idle.root / "run" / "metrics.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def found() -> dict[tuple[str, str], float] | None:
        values = scrape(UnixConnection(path))
        is_counted = values["obdsup_worker_deaths_total", "killed"] == 1
        return values if is_counted and ("obdsup_last_stall_seconds", "a") in values else None

    values = eventually(found, 20)
    assert values is not None
    assert values["obdsup_devices", "online"] == 1
    assert values["obdsup_device_online", "a"] == 1
    assert values["obdsup_workers", "fake,serving"] == 1
    assert values["obdsup_takeovers_total", "a"] == 1
    assert values["obdsup_last_stall_seconds", "a"] > 0
    assert values["obdsup_commands_total", "a,read"] == 0
    assert values["obdsup_events_total", "takeover.done,info"] == 1
    assert values["obdsup_standbys_ready", ""] == 1
    assert values["obdsup_rollout", "idle"] == 1
    assert values["obdsup_state_failure", ""] == 0
    assert values["obdsup_poisoned_commands_total", "a"] == 0


def test_a_loopback_port_serves_them_too(idle: FakeService) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    idle.start("--metrics", f"127.0.0.1:{port}")
    values = scrape(http.client.HTTPConnection("127.0.0.1", port, timeout=30))
    assert values["obdsup_standbys_wanted", ""] == 1


def test_nothing_listens_unless_it_is_asked_for(service: FakeService) -> None:
    assert not (service.root / "run" / "metrics.sock").exists()


def test_a_socket_left_by_a_dead_supervisor_is_replaced(idle: FakeService) -> None:
    idle.start("--metrics", "unix")
    idle.kill()
    idle.start("--metrics", "unix")
    assert scrape(UnixConnection(idle.root / "run" / "metrics.sock"))


def test_a_client_that_says_nothing_is_given_up(idle: FakeService) -> None:
    idle.start("--metrics", "unix")
    path = idle.root / "run" / "metrics.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as silent:
        silent.connect(str(path))
        assert scrape(UnixConnection(path))


@pytest.mark.parametrize(
    ("request_", "status"),
    [(b"GET /other HTTP/1.1\r\n\r\n", b"404"), (b"POST / HTTP/1.1\r\n\r\n", b"405"),
     (b"\x16\x03\x01\r\n\r\n", b"400"), (b"x" * 10_000, b"400")],
)  # fmt: skip
def test_other_requests_are_refused(idle: FakeService, request_: bytes, status: bytes) -> None:
    idle.start("--metrics", "unix")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(30)
        client.connect(str(idle.root / "run" / "metrics.sock"))
        client.sendall(request_)
        assert client.recv(4096).split()[1] == status


@pytest.mark.parametrize(
    "text",
    ["0.0.0.0:9100", "10.1.2.3:9100", "[::]:9100", "localhost:9100", "127.0.0.1", "127.0.0.1:0",
     "unix:relative", "9100"],
)  # fmt: skip
def test_what_is_no_loopback_address_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigError, match="metrics"):
        parse_address(text, Path("/run/obdsup"))


def test_addresses_that_are_offered() -> None:
    run_dir = Path("/run/obdsup")
    assert parse_address("unix", run_dir) == run_dir / "metrics.sock"
    assert parse_address("unix:/run/m.sock", run_dir) == Path("/run/m.sock")
    assert parse_address("127.0.0.1:9100", run_dir) == ("127.0.0.1", 9100)
    assert parse_address("[::1]:9100", run_dir) == ("::1", 9100)


def test_an_address_in_use_ends_the_start_with_its_name(idle: FakeService) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        started = idle.spawn("--metrics", f"127.0.0.1:{taken.getsockname()[1]}")
        assert started.wait(30) == ConfigError.exit_code
    assert "metrics can not be had at" in idle.log_text()
    assert not os.path.exists(idle.root / "run" / "metrics.sock")


def test_the_supervisor_carries_the_library_only_when_it_is_scraped() -> None:
    code = (
        "import sys, obdsup.supervisor.service; "
        "sys.exit('prometheus_client' in sys.modules or 'http.server' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
