"""The command line against a fake supervisor: requests sent, output, exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from obdsup import errors
from obdsup.cli.size import parse_device_size
from obdsup.errors import ConfigError, ControlError, DeviceNotFound, ObdError
from tests.cli.fake_supervisor import FakeSupervisor
from tests.conftest import eventually

ROW = {
    "name": "web",
    "phase": "online",
    "provider": "fuse",
    "block_device": "/dev/loop7",
    "size_bytes": 64 << 30,
    "writable": True,
    "generation": 3,
    "worker": {"id": "w2", "pid": 4711, "release": "0.1.0"},
    "last_takeover": {"dur_ms": 2.5, "recovered": 4, "cause": "killed"},
}
FakeMaker = Callable[[dict[str, list[Any]]], FakeSupervisor]


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeMaker]:
    made: list[FakeSupervisor] = []

    def one(answers: dict[str, list[Any]]) -> FakeSupervisor:
        made.append(FakeSupervisor(tmp_path / "run", answers))
        return made[-1]

    yield one
    for supervisor in made:
        supervisor.close()


def run(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "obdsup.cli", "--run-dir", str(tmp_path / "run"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def ok(result: Any) -> dict[str, Any]:
    return {"ok": True, "result": result}


def every_error(cls: type[ObdError] = ObdError) -> list[type[ObdError]]:
    return [cls, *(found for sub in cls.__subclasses__() for found in every_error(sub))]


def test_each_error_class_has_one_exit_code_of_its_own() -> None:
    classes = [cls for cls in every_error() if cls.__module__ == errors.__name__]
    codes = [cls.exit_code for cls in classes]
    assert len(classes) == 13
    assert len(set(codes)) == len(codes)
    assert not {0, 2, 130} & set(codes)


@pytest.mark.parametrize(
    "cls", [c for c in every_error() if c.__module__ == errors.__name__], ids=lambda c: c.__name__
)
def test_what_the_supervisor_refuses_becomes_the_exit_code(
    cls: type[ObdError], tmp_path: Path, fake: FakeMaker
) -> None:
    error = (
        errors.FormatError("/l0.obd", 4096, "LSMT", "garbage", hint="fetch it again")
        if cls is errors.FormatError
        else cls("what and where", hint="fetch it again")
    )
    fake({"device.show": [{"ok": False, "error": error.to_json()}]})
    done = run(tmp_path, "--json", "device", "show", "web")
    assert done.returncode == cls.exit_code
    assert json.loads(done.stdout)["error"] == error.to_json()
    assert error.what in done.stderr
    assert "next: fetch it again" in done.stderr


def test_create_sends_an_absolute_path_and_bytes_and_shows_progress(
    tmp_path: Path, fake: FakeMaker
) -> None:
    supervisor = fake({"device.create": [{"progress": "making the ring"}, ok(ROW)]})
    done = run(
        tmp_path, "device", "create", "web", "--image", "c.json", "--writable", "--size", "64G"
    )
    assert done.returncode == 0, done.stderr
    (request,) = supervisor.requests
    assert request["v"] == 1
    assert request["image"] == os.path.abspath("c.json")
    assert (request["writable"], request["size_bytes"]) == (True, 64 << 30)
    assert "making the ring" in done.stderr
    assert done.stdout == "web: /dev/loop7\n"


def test_list_is_a_table_for_people_and_json_for_programs(tmp_path: Path, fake: FakeMaker) -> None:
    fake({"device.list": [ok([ROW])]})
    table = run(tmp_path, "device", "list")
    heading, line = table.stdout.splitlines()
    assert heading.split()[:3] == ["NAME", "PHASE", "PROVIDER"]
    assert line.split()[:7] == ["web", "online", "fuse", "/dev/loop7", "64G", "rw", "3"]
    for place in (("--json", "device", "list"), ("device", "list", "--json")):
        assert json.loads(run(tmp_path, *place).stdout) == [ROW]


@pytest.mark.parametrize("action", ["show", "remove", "handover"])
def test_device_actions_name_their_device(action: str, tmp_path: Path, fake: FakeMaker) -> None:
    supervisor = fake({f"device.{action}": [ok(ROW)]})
    done = run(tmp_path, "device", action, "web")
    assert done.returncode == 0, done.stderr
    assert supervisor.requests == [{"v": 1, "op": f"device.{action}", "name": "web"}]
    assert "web" in done.stdout


def test_status_and_events(tmp_path: Path, fake: FakeMaker) -> None:
    event = {"id": 5, "ts": "now", "event": "takeover.done", "device": "web", "fields": {"a": 1}}
    supervisor = fake({"status": [ok({"pid": 1})], "events": [ok([event])]})
    assert json.loads(run(tmp_path, "--json", "status").stdout) == {"pid": 1}
    assert "takeover.done" in run(tmp_path, "events", "--since", "4").stdout
    assert supervisor.requests[-1]["since"] == 4


@pytest.mark.parametrize(
    "answer", [b"{", b"[]", b"{}", b'{"ok":false}', b'{"ok":1}', b'{"ok":false,"error":5}', None]
)
def test_answers_that_are_none_are_control_errors(
    answer: bytes | None, tmp_path: Path, fake: FakeMaker
) -> None:
    fake({"status": [] if answer is None else [answer]})
    done = run(tmp_path, "status")
    assert done.returncode == ControlError.exit_code
    assert "Traceback" not in done.stderr


def test_no_supervisor_says_how_to_start_one(tmp_path: Path) -> None:
    done = run(tmp_path, "status")
    assert done.returncode == ControlError.exit_code
    assert str(tmp_path / "run" / "obdsup.sock") in done.stderr
    assert "obdsup supervisor" in done.stderr


def test_an_unknown_error_class_of_a_newer_supervisor_is_still_an_error(
    tmp_path: Path, fake: FakeMaker
) -> None:
    fake({"status": [{"ok": False, "error": {"class": "Newer", "message": "m"}}]})
    assert run(tmp_path, "status").returncode == ObdError.exit_code


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("64G", 64 << 30), ("512M", 512 << 20), ("4k", 4096), ("1024", 1024), ("1TiB", 1 << 40)],
)
def test_sizes(text: str, size_bytes: int) -> None:
    assert parse_device_size(text) == size_bytes


@pytest.mark.parametrize("text", ["0", "0G", "511", "1.5G", "-1", "G", "", "64X", "9" * 30, "٣"])
def test_bad_sizes_are_config_errors_before_anything_is_asked(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        parse_device_size(text)
    done = run(tmp_path, "device", "create", "x", "--image", "c", "--writable", f"--size={text}")
    assert done.returncode == ConfigError.exit_code


@pytest.mark.parametrize(
    "arguments", [[], ["nonsense"], ["device"], ["device", "create", "x"], ["status", "extra"]]
)
def test_wrong_usage_exits_two(arguments: list[str], tmp_path: Path) -> None:
    assert run(tmp_path, *arguments).returncode == 2


def test_help_teaches_and_version_is_told(tmp_path: Path) -> None:
    top = run(tmp_path, "--help")
    assert "obdsup doctor" in top.stdout
    assert "image" in top.stdout
    assert "handover" in run(tmp_path, "device", "create", "--help").stdout
    assert run(tmp_path, "--version").stdout.startswith("obdsup ")


def test_doctor_says_what_is_there_and_what_to_do(tmp_path: Path) -> None:
    done = run(tmp_path, "--json", "doctor")
    told = json.loads(done.stdout)
    findings = {finding["name"]: finding for finding in told["findings"]}
    assert findings["supervisor"]["ok"] is False
    assert all(finding["ok"] or finding["next"] for finding in findings.values())
    assert done.returncode == (0 if told["providers"] else errors.ProviderError.exit_code)
    assert "next:" in run(tmp_path, "doctor").stdout


def test_ctrl_c_exits_130(tmp_path: Path) -> None:
    import socket

    (tmp_path / "run").mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as silent:
        silent.bind(str(tmp_path / "run" / "obdsup.sock"))
        silent.listen()
        silent.settimeout(30)
        command = [sys.executable, "-m", "obdsup.cli", "--run-dir", str(tmp_path / "run"), "status"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        connection, _ = silent.accept()
        with connection, process:
            connection.recv(100)
            process.send_signal(signal.SIGINT)
            eventually(lambda: process.poll() is not None)
            assert process.stderr is not None
            assert "interrupted" in process.stderr.read()
        assert process.returncode == 130


def test_status_imports_neither_rich_nor_the_formats() -> None:
    code = (
        "import sys; from obdsup.cli.__main__ import build_parser; build_parser('status');"
        "print([m for m in sys.modules if m.split('.')[0] in ('rich', 'zstandard', 'lz4')"
        " or m.startswith(('obdsup.format', 'obdsup.worker', 'obdsup.supervisor'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_device_that_is_not_there(tmp_path: Path, fake: FakeMaker) -> None:
    fake({"device.show": [{"ok": False, "error": DeviceNotFound("no device web").to_json()}]})
    done = run(tmp_path, "device", "show", "web")
    assert (done.returncode, done.stdout) == (19, "")


def test_a_follower_goes_on_when_the_supervisor_comes_back_with_a_new_state_db(
    tmp_path: Path,
) -> None:
    def event(number: int, name: str) -> dict[str, Any]:
        return {"id": number, "ts": 1.0, "event": name, "device": "web", "fields": {}}

    first = FakeSupervisor(tmp_path / "run", {"events": [ok([event(900, "device.blocked")])]})
    out, said = tmp_path / "out", tmp_path / "said"
    command = [sys.executable, "-m", "obdsup.cli", "--run-dir", str(tmp_path / "run")]
    with out.open("wb") as file, said.open("wb") as errors:
        follower = subprocess.Popen(
            [*command, "--json", "events", "--follow"], stdout=file, stderr=errors
        )
    try:
        eventually(lambda: "device.blocked" in out.read_text())
        first.close()
        (tmp_path / "run" / "obdsup.sock").unlink()
        eventually(lambda: "waiting for it" in said.read_text(), 20)
        second = FakeSupervisor(tmp_path / "run", {"events": [ok([event(1, "state.rebuilt")])]})
        eventually(lambda: "state.rebuilt" in out.read_text(), 20)
        second.close()
        assert any(request.get("since") == 0 for request in second.requests)
    finally:
        follower.kill()
        follower.communicate()
