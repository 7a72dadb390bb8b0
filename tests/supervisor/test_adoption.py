"""Supervisors die; their successors adopt. Real processes, fake rings."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import traceback
from pathlib import Path

import pytest

from obdsup.errors import AccessDenied, AlreadyServed, ControlError, DeviceNotFound, ObdError
from obdsup.state.control import ControlClient
from tests.conftest import eventually
from tests.supervisor.fake_service import FakeService, is_alive

pytestmark = [pytest.mark.integration]


def test_successor_adopts_workers_and_standbys(service: FakeService) -> None:
    before = service.create("a")
    service.wait_for_standby()
    workers = {w["pid"] for w in service.client.call("status")["workers"]}
    service.kill()
    assert all(is_alive(pid) for pid in workers)
    service.start()
    after = service.show("a")
    assert (after["phase"], after["worker"], after["generation"]) == (
        "online", before["worker"], before["generation"],
    )  # fmt: skip
    assert {w["pid"] for w in service.client.call("status")["workers"]} == workers
    pid = service.kill_worker("a")  # the adopted pidfd works, and the ring came back
    service.online_with_other_worker("a", pid)


def test_both_killed_the_successor_takes_over_all_in_parallel(service: FakeService) -> None:
    names = ["a", "b", "c"]
    for name in names:
        service.create(name)
    pids = {name: service.worker_pid(name) for name in names}
    service.kill()
    for pid in pids.values():
        os.kill(pid, signal.SIGKILL)
    service.start()
    for name in names:
        assert service.online_with_other_worker(name, pids[name])["generation"] == 2


def test_a_worker_that_lives_but_does_not_answer_is_fenced(service: FakeService) -> None:
    service.create("a")
    pid = service.worker_pid("a")
    service.kill()
    os.kill(pid, signal.SIGSTOP)
    service.start()
    service.online_with_other_worker("a", pid)
    assert not is_alive(pid)
    assert service.events("worker.fenced")


def hand_over_until_it_ends(service: FakeService) -> None:
    with contextlib.suppress(ObdError):  # its supervisor is killed meanwhile
        service.client.call("device.handover", name="a")


def test_a_worker_that_drains_for_a_dead_supervisor_is_fenced(service: FakeService) -> None:
    """Adopted as the server it would let go later, and nobody would know: found by the model."""
    service.create("a")
    service.wait_for_standby()
    pid = service.worker_pid("a")
    folder = service.root / "img"
    (folder / "hang-drain").touch()
    handing_over = threading.Thread(target=hand_over_until_it_ends, args=(service,))
    handing_over.start()
    eventually((folder / "hanging-drain").exists)
    service.kill()
    handing_over.join()
    service.start()
    (folder / "hang-drain").unlink()
    service.online_with_other_worker("a", pid)
    assert not is_alive(pid)


def test_a_worker_that_attaches_for_a_dead_supervisor_is_fenced(service: FakeService) -> None:
    """Late, it could format the journal while the next supervisor resets the ring."""
    service.create("a")
    service.wait_for_standby()
    (standby,) = [w for w in service.client.call("status")["workers"] if w["state"] == "standby"]
    folder = service.root / "img"
    (folder / "hang-serve").write_text(standby["id"])
    lost = service.kill_worker("a")
    eventually((folder / "hanging-serve").exists)
    service.kill()
    service.start()
    assert service.online_with_other_worker("a", lost)["worker"]["pid"] != standby["pid"]
    assert not is_alive(standby["pid"])
    (fenced,) = service.events("worker.fenced")
    assert "earlier supervisor" in str(fenced)


def test_sigterm_leaves_workers_serving(service: FakeService) -> None:
    service.create("a")
    pid = service.worker_pid("a")
    assert service.process is not None
    service.process.terminate()
    assert service.process.wait(20) == 0
    assert is_alive(pid)
    service.start()
    assert service.worker_pid("a") == pid


def test_second_supervisor_is_refused_and_touches_nothing(service: FakeService) -> None:
    service.create("a")
    pid = service.worker_pid("a")
    second = service.spawn()
    assert second.wait(20) == AlreadyServed.exit_code
    assert service.worker_pid("a") == pid
    assert service.show("a")["generation"] == 1


def test_devices_of_another_boot_are_reported_gone(service: FakeService) -> None:
    service.create("a", writable=True)
    pid = service.worker_pid("a")
    service.kill()
    os.kill(pid, signal.SIGKILL)
    service.reboot()
    service.start()
    assert service.client.call("device.list") == []
    (row,) = service.events("device.void")
    assert row["device"] == "a"
    assert (Path(row["fields"]["kept"]) / "upper" / "upper.data").read_bytes() == b"fake upper"


@pytest.mark.parametrize("step", ["create", "publish"])
def test_create_interrupted_by_a_kill_is_finished_by_the_successor(
    service: FakeService, step: str
) -> None:
    (service.rings() / f"block-{step}").touch()
    with pytest.raises(ControlError):
        _call_while_killed(service, step)
    (service.rings() / f"block-{step}").unlink()
    service.start()
    eventually(lambda: service.show("a")["phase"] == "online", 20)
    service.remove("a")
    assert service.client.call("device.list") == []


def test_remove_interrupted_by_a_kill_is_finished_by_the_successor(service: FakeService) -> None:
    service.create("a")
    (service.rings() / "block-destroy").touch()
    with pytest.raises(ControlError):
        _call_while_killed(service, "destroy", op="device.remove")
    (service.rings() / "block-destroy").unlink()
    service.start()
    eventually(lambda: service.client.call("device.list") == [], 20)


def _call_while_killed(service: FakeService, step: str, op: str = "device.create") -> None:
    """Calls op in this thread while another kills the supervisor once the step was begun."""
    import threading

    def kill() -> None:
        eventually(lambda: f"{step} a" in service.provider_calls(), 20)
        service.kill()

    service.rings().joinpath("calls").touch()
    killer = threading.Thread(target=kill)
    killer.start()
    try:
        fields = {"image": str(service.root / "img" / "config.v1.json")}
        service.client.call(op, name="a", **(fields if op == "device.create" else {}))
    finally:
        killer.join()


@pytest.mark.parametrize("step", ["create", "publish"])
def test_create_that_fails_takes_everything_back(service: FakeService, step: str) -> None:
    (service.rings() / f"fail-{step}").touch()
    with pytest.raises(ObdError, match=f"planted failure of {step}"):
        service.create("a", writable=True, size_bytes=1 << 30)
    assert service.client.call("device.list") == []
    assert not list(service.rings().glob("*.pid"))
    (service.rings() / f"fail-{step}").unlink()
    assert service.create("a")["phase"] == "online"


def test_removal_of_a_device_in_use_fails_and_leaves_it_serving(service: FakeService) -> None:
    service.create("a")
    (service.rings() / "fail-retract").touch()
    with pytest.raises(ObdError, match="planted failure of retract"):
        service.client.call("device.remove", name="a")
    assert service.show("a")["phase"] == "online"
    service.wait_for_standby()
    pid = service.kill_worker("a")
    service.online_with_other_worker("a", pid)
    (service.rings() / "fail-retract").unlink()
    service.client.call("device.remove", name="a")
    with pytest.raises(DeviceNotFound):
        service.show("a")


def test_a_worker_that_dies_while_publish_blocks_is_replaced(service: FakeService) -> None:
    """Linking a LUN waits for a worker's answer: take-over must not wait for publish."""
    import threading

    (service.rings() / "block-publish").touch()
    creating = threading.Thread(target=service.create, args=("a",))
    creating.start()
    eventually(lambda: "publish a" in service.provider_calls(), 20)
    service.wait_for_standby()
    pid = service.kill_worker("a")
    eventually(lambda: service.show("a")["takeovers"] == 1, 20)
    (service.rings() / "block-publish").unlink()
    creating.join()
    assert service.online_with_other_worker("a", pid)["phase"] == "online"


def test_control_socket_refuses_other_users(service: FakeService) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to become another user")
    path = service.root / "run" / "obdsup.sock"
    assert path.stat().st_mode & 0o777 == 0o600
    path.parent.chmod(0o755)
    path.chmod(0o666)  # so that only the peer's uid stands in the way
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            os.chdir(path.parent)  # before: the folders above may be closed to the other user
            os.setgid(65534)
            os.setuid(65534)
            ControlClient(path.name, timeout_s=60).call("status")
        except AccessDenied as error:
            code = error.exit_code
        except Exception:  # noqa: BLE001 - said, and the exit code stays 99
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == AccessDenied.exit_code


@pytest.mark.parametrize(
    ("name", "fields", "expected"),
    [
        ("../x", {}, "not usable"),
        ("a", {"size_bytes": 0}, "size 0"),
        ("a", {"size_bytes": 1000, "writable": True}, "size 1000"),
        ("a", {"size_bytes": 512, "writable": True}, "does not fit"),
        ("a", {"provider": "none"}, "unknown"),
        ("a", {"writable": "yes"}, "neither true nor false"),
        ("a", {"image": "relative"}, "absolute"),
        ("a", {"image": "/nonexistent"}, "No such file"),
    ],
)
def test_bad_requests_are_refused(
    service: FakeService, name: str, fields: dict[str, object], expected: str
) -> None:
    image = str(service.root / "img" / "config.v1.json")
    with pytest.raises(ObdError, match=expected):
        service.client.call("device.create", **{"name": name, "image": image, **fields})
    assert service.client.call("device.list") == []


def test_bad_lines_get_an_error_and_hurt_nobody(service: FakeService) -> None:
    import json
    import socket

    for line in (b"", b"x\n", b"[]\n", b'{"v":9}\n', b'{"v":1,"op":"no"}\n', b"y" * 70000 + b"\n"):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(service.root / "run" / "obdsup.sock"))
            try:
                sock.sendall(line)
                sock.shutdown(socket.SHUT_WR)
                answer = sock.makefile("rb").readline()
            except (BrokenPipeError, ConnectionResetError):
                continue  # refused before it was read whole
            assert json.loads(answer)["error"]["class"] == "ControlError"
    assert service.client.call("status")["pid"]
