"""Who may ask, and what is never written down. Fake workers that read configs as real ones do."""

from __future__ import annotations

import contextlib
import json
import socket
import stat
from pathlib import Path
from typing import Any

import pytest

from obdsup.errors import ObdError
from tests.supervisor.fake_service import FakeService
from tests.worker.worker_process import run_as_nobody

pytestmark = [pytest.mark.integration]

SECRET = "hunter2-of-the-registry"


@pytest.fixture
def measured(idle: FakeService) -> FakeService:
    """With every socket there is, metrics included."""
    idle.start("--metrics", "unix")
    idle.create("a")
    idle.wait_for_standby()
    return idle


def sockets(service: FakeService) -> list[Path]:
    found = [path for path in (service.root / "run").rglob("*") if path.is_socket()]
    names = {path.name for path in found}
    assert {"obdsup.sock", "supervisor.sock", "metrics.sock"} <= names, names
    assert any(path.parent.name == "workers" for path in found)
    return found


def test_sockets_are_for_their_owner_only(measured: FakeService) -> None:
    for path in sockets(measured):
        if path.parent.name == "workers":
            continue  # fakes; real ones: tests/worker/test_confinement.py
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    for folder in ("run", "state"):
        assert stat.S_IMODE((measured.root / folder).stat().st_mode) == 0o700


@pytest.mark.host
def test_another_user_gets_to_no_socket_even_when_the_folder_is_open(measured: FakeService) -> None:
    paths = [path for path in sockets(measured) if path.parent.name != "workers"]
    for folder in {parent for path in paths for parent in path.parents}:
        if measured.root in (folder, *folder.parents):
            folder.chmod(0o755)

    def reached() -> int:
        return sum(_connects(path) for path in paths)

    assert run_as_nobody(reached) == 0


def opened(measured: FakeService, name: str) -> Path:
    """The socket, after its modes were opened to everybody: only the peer's uid is left to ask."""
    path = measured.root / "run" / name
    for folder in (measured.root, measured.root / "run"):
        folder.chmod(0o755)
    path.chmod(0o666)
    return path


@pytest.mark.host
def test_another_user_is_refused_by_its_credentials_even_when_the_socket_is_open(
    measured: FakeService,
) -> None:
    path = opened(measured, "obdsup.sock")

    def answer() -> int:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.connect(str(path))
            with contextlib.suppress(BrokenPipeError):  # it is told before it has asked
                sock.sendall(b'{"v": 1, "op": "shutdown"}\n')
            found = json.loads(sock.makefile("rb").readline())
        return int(found["ok"] is False and found["error"]["class"] == "AccessDenied")

    assert run_as_nobody(answer) == 1
    assert measured.client.call("status")["pid"]


@pytest.mark.host
def test_another_user_gets_no_answer_from_supervisorctls_socket_even_when_it_is_open(
    measured: FakeService,
) -> None:
    path = opened(measured, "supervisor.sock")

    def answered() -> int:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.connect(str(path))
            with contextlib.suppress(OSError):
                sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
                return int(sock.recv(100) != b"")
        return 0

    assert answered() == 1, "root is"
    assert run_as_nobody(answered) == 0
    assert measured.client.call("status")["pid"]


def _connects(path: Path) -> bool:
    for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
        with socket.socket(socket.AF_UNIX, kind) as sock:
            try:
                sock.connect(str(path))
            except OSError:
                continue
            return True
    return False


def secret_configs(folder: Path) -> list[dict[str, Any]]:
    """A config that is fine, and others whose errors could quote what they found."""
    good = {
        "lowers": [{"file": f"{folder}/l0", "auth": SECRET}],
        "repoBlobUrl": f"https://user:{SECRET}@registry.test/v2/blobs",
        "credentials": {"username": "user", "password": SECRET},
    }
    return [
        good,
        {**good, "repoBlobUrl": [SECRET]},
        {**good, "repoBlobUrl": {"url": SECRET}},
        {**good, "lowers": [{"digest": "sha256:0", "size": 1, "auth": SECRET}]},
        {**good, "lowers": [{"file": f"{folder}/missing", "auth": SECRET}]},
        {**good, "upper": SECRET},
    ]


def test_a_secret_of_a_config_is_written_down_nowhere(service: FakeService) -> None:
    folder = service.image("secret")
    said: list[str] = []
    for number, config in enumerate(secret_configs(folder)):
        (folder / "config.v1.json").write_text(json.dumps(config))
        try:
            said.append(json.dumps(service.create(f"d{number}", "secret")))
        except ObdError as error:
            said.append(json.dumps(error.to_json()))
    (folder / "config.v1.json").write_text(f'{{"repoBlobUrl": "{SECRET}", ')  # not even JSON
    with pytest.raises(ObdError) as broken:
        service.create("broken", "secret")
    said.append(json.dumps(broken.value.to_json()))
    pid = service.kill_worker("d0")
    said.append(json.dumps(service.online_with_other_worker("d0", pid)))
    said += [json.dumps(service.events()), json.dumps(service.client.call("status"))]
    assert len(said) == 10
    assert not [text for text in said if SECRET in text]
    written = [path for path in service.root.rglob("*") if path.is_file()]
    assert any(path.name == "state.db" for path in written)
    mine = [path for path in written if folder not in path.parents]
    assert not [path for path in mine if SECRET.encode() in path.read_bytes()]
    assert not [path for path in process_files(service) if SECRET.encode() in path.read_bytes()]


def process_files(service: FakeService) -> list[Path]:
    """What ps and others see of the supervisor and its workers."""
    status = service.client.call("status")
    pids = [status["pid"], *(worker["pid"] for worker in status["workers"])]
    return [Path(f"/proc/{pid}/{name}") for pid in pids for name in ("cmdline", "environ")]
