"""A real worker process on a ring of its own: the control protocol, take-over, what goes wrong."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from obdsup.errors import (
    AccessDenied,
    AlreadyServed,
    ConfigError,
    ControlError,
    FormatError,
    ObdError,
    StateError,
)
from obdsup.state import messages
from tests.conftest import eventually
from tests.worker.fake_ring import FakeRing
from tests.worker.worker_process import (
    PROGRAM,
    SLOW_PROGRAM,
    Client,
    WorkerProcess,
    error_of,
    image_of,
    run_as_nobody,
    serve_fields,
    unpack,
)

pytestmark = pytest.mark.integration

Start = Callable[..., WorkerProcess]
MIB = 1024  # KiB


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts workers; ends them all."""
    workers: list[WorkerProcess] = []

    def one(worker_id: str = "w1", program: tuple[str, ...] = PROGRAM) -> WorkerProcess:
        workers.append(WorkerProcess(tmp_path, worker_id, program))
        return workers[-1]

    yield one
    for worker in workers:
        worker.close()


@pytest.fixture
def rings(tmp_path: Path) -> Iterator[Callable[[str], FakeRing]]:
    made: list[FakeRing] = []

    def one(name: str = "disk") -> FakeRing:
        made.append(FakeRing(tmp_path, name))
        return made[-1]

    yield one
    for ring in made:
        ring.close()


@pytest.fixture
def image(vectors: Path) -> dict[str, Any]:
    """Three sealed layers, lz4 and zstd."""
    return image_of(vectors / "mini" / "config.m.json", vectors)


@pytest.fixture
def new_writable(vectors: Path, tmp_path: Path) -> Callable[[str], dict[str, Any]]:
    """Makes images with an upper of their own."""

    def one(name: str = "disk") -> dict[str, Any]:
        made = image_of(vectors / "mini" / "config.m2.upper.json", vectors)
        for key in ("data", "index"):
            copy = tmp_path / f"{name}.{key}"
            shutil.copyfile(made["upper"][key], copy)
            made["upper"][key] = str(copy)
        return made

    return one


def fd_targets(pid: int) -> list[str]:
    targets = []
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            targets.append(os.readlink(fd))
        except FileNotFoundError:
            continue
    return sorted(targets)


def ring_fds_of(pid: int) -> list[str]:
    return [t for t in fd_targets(pid) if "memfd:ring" in t or t.endswith(".inflight")]


def wait_until_warm(client: Client, device: str, image: dict[str, Any]) -> dict[str, Any]:
    return client.call("prewarm", device=device, image=image)


def ask_for_ever(client: Client) -> None:
    while True:
        client.send("hello")


def open_for_writing(fifo: Path) -> None:
    """Lets the worker's open of a FIFO go on, once it is there."""

    def opened() -> bool:
        try:
            os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            return False
        return True

    eventually(opened)


# -- identity and prewarming ---------------------------------------------------------------------
def test_hello_says_who_the_worker_is(start: Start) -> None:
    worker = start()
    with worker.connect() as client:
        hello = client.call("hello")
    stat_fields = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()
    assert hello["pid"] == worker.pid
    assert hello["start_time"] == int(stat_fields[19])
    assert hello["protocol"] == messages.PROTOCOL_VERSION
    assert (hello["devices"], hello["changing"]) == ([], [])


def test_prewarm_tells_size_and_whether_writable(
    start: Start, image: dict[str, Any], new_writable: Callable[..., dict[str, Any]]
) -> None:
    with start().connect() as client:
        sealed = client.call("prewarm", device="a", image=image)
        writable = client.call("prewarm", device="b", image=new_writable())
        assert (sealed["size_bytes"], sealed["is_writable"]) == (1 << 30, False)
        assert (writable["size_bytes"], writable["is_writable"]) == (1 << 30, True)
        assert sorted(client.call("hello")["prewarmed"]) == ["a", "b"]
        client.call("forget", device="a")
        client.call("forget", device="never-seen")
        assert client.call("hello")["prewarmed"] == ["b"]


def test_prewarm_of_other_files_replaces_the_image(start: Start, image: dict[str, Any]) -> None:
    worker = start()
    with worker.connect() as client:
        client.call("prewarm", device="a", image=image)
        client.call("prewarm", device="a", image={"lowers": image["lowers"][:1], "upper": None})
        opened = [t for t in fd_targets(worker.pid) if t.endswith(".obd")]
        assert opened == [os.path.realpath(path) for path in image["lowers"][:1]]


def test_a_corrupt_layer_is_named_and_leaves_other_devices_alone(
    start: Start, image: dict[str, Any], tmp_path: Path, rings: Callable[..., FakeRing]
) -> None:
    bad = tmp_path / "bad.obd"
    blob = bytearray(Path(image["lowers"][0]).read_bytes())
    blob[0] ^= 0xFF
    bad.write_bytes(blob)
    broken = {"lowers": [str(bad), *image["lowers"][1:]], "upper": None}
    ring, other = rings("bad"), rings("good")
    with start().connect() as client:
        client.serve(other, image, 1)
        for ask in (
            lambda: client.call("prewarm", device="bad", image=broken),
            lambda: client.serve(ring, broken, 1),
        ):
            with pytest.raises(FormatError) as caught:
                ask()
            assert caught.value.fields["path"] == str(bad)
            assert caught.value.exit_code == FormatError.exit_code
        assert other.read(0, 8).status == 0


def test_a_missing_layer_is_named(start: Start, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.obd")
    with start().connect() as client, pytest.raises(ObdError, match=re.escape(missing)):
        client.call("prewarm", device="a", image={"lowers": [missing], "upper": None})


@pytest.mark.parametrize("is_good", [True, False])
def test_a_config_is_read_without_opening_a_layer(
    start: Start, tmp_path: Path, is_good: bool
) -> None:
    layer, report = tmp_path / "l0", str(tmp_path / "result")
    layer.write_bytes(b"no layer at all")
    lowers = [{"file": str(layer)}] if is_good else 5
    config = tmp_path / "config.v1.json"
    config.write_text(json.dumps({"lowers": lowers, "resultFile": report}))
    with start().connect() as client:
        if is_good:
            answer = client.call("read_config", config=str(config))
            assert answer["result_file"] == report
            assert answer["files"] == {"lowers": [str(layer)], "upper": None}
        else:
            with pytest.raises(ConfigError, match="lowers: expected an array") as caught:
                client.call("read_config", config=str(config))
            assert caught.value.fields["result_file"] == report
        assert client.call("hello")["prewarmed"] == []


# -- serving ---------------------------------------------------------------------------------------
def test_what_is_read_through_the_ring_is_the_image(
    start: Start, image: dict[str, Any], rings: Callable[..., FakeRing]
) -> None:
    from obdsup.worker.native import Image

    ring = rings()
    reference = Image(image["lowers"], None)
    with start().connect() as client:
        answer = client.serve(ring, image, 1)
        assert answer["recovered"] == 0
        for lba in (0, 8, 100, 2048, (1 << 21) - 8):
            done = ring.read(lba, 8)
            assert done.status == 0
            assert done.data == reference.read(lba, 8)
    reference.close()


def test_a_second_worker_is_refused_before_it_touches_the_ring(
    start: Start, image: dict[str, Any], rings: Callable[..., FakeRing]
) -> None:
    ring = rings()
    with start("w1").connect() as first, start("w2").connect() as second:
        first.serve(ring, image, 1)
        ring.read(0, 8)
        before = ring.map[:], ring.journal_path.read_bytes()[:256]
        with pytest.raises(AlreadyServed):
            second.serve(ring, image, 2, "recover")
        assert (ring.map[:], ring.journal_path.read_bytes()[:256]) == before
        assert ring.read(8, 8).status == 0


def test_the_same_worker_does_not_serve_a_device_twice(
    start: Start, image: dict[str, Any], rings: Callable[..., FakeRing]
) -> None:
    ring = rings()
    with start().connect() as client:
        client.serve(ring, image, 1)
        with pytest.raises(AlreadyServed):
            client.serve(ring, image, 2, "recover")
        with pytest.raises(AlreadyServed):
            client.call("forget", device="disk")


def test_takeover_after_sigkill_keeps_acknowledged_and_queued_writes(
    start: Start, new_writable: Callable[..., dict[str, Any]], rings: Callable[..., FakeRing]
) -> None:
    ring, image = rings(), new_writable()
    old, new = start("w1"), start("w2")
    with old.connect() as client, new.connect() as heir:
        client.serve(ring, image, 1)
        heir.call("prewarm", device="disk", image=image)
        first, second = os.urandom(4096), os.urandom(4096)
        assert ring.write(64, first).status == 0
        # Stopped, so that the next command is certainly queued and not done when it dies.
        os.kill(old.pid, signal.SIGSTOP)
        offset = ring.queue(
            b"\x8a\0" + (80).to_bytes(8, "big") + (8).to_bytes(4, "big") + b"\0\0", second
        )
        assert ring.tail != (offset + 128)
        old.kill()
        heir.serve(ring, image, 2, "recover")
        assert ring.complete(offset, 0).status == 0
        assert ring.read(64, 8).data == first
        assert ring.read(80, 8).data == second


def test_a_stale_generation_is_refused(
    start: Start, image: dict[str, Any], rings: Callable[..., FakeRing]
) -> None:
    ring = rings()
    with start().connect() as client:
        client.serve(ring, image, 5)
        client.call("drain", device="disk", timeout_ms=5000)
        for generation in (5, 4):
            with pytest.raises(StateError) as caught:
                client.serve(ring, image, generation, "recover")
            assert caught.value.fields["code"] == "OBD_E_STALE"
        client.serve(ring, image, 6, "recover")
        assert ring.read(0, 8).status == 0


@pytest.mark.parametrize("field", ["uuid", "boot_id"])
def test_a_journal_of_another_device_or_boot_is_refused_by_name(
    start: Start, image: dict[str, Any], rings: Callable[..., FakeRing], field: str
) -> None:
    ring = rings()
    with start().connect() as client:
        client.serve(ring, image, 1)
        client.call("drain", device="disk", timeout_ms=5000)
        with pytest.raises(StateError) as caught:
            client.serve(ring, image, 2, "recover", **{field: "12" * 16})
        assert caught.value.fields["code"] == "OBD_E_JOURNAL"


def test_drain_hands_over_and_serve_takes_back(
    start: Start, new_writable: Callable[..., dict[str, Any]], rings: Callable[..., FakeRing]
) -> None:
    ring, image = rings(), new_writable()
    w1, w2 = start("w1"), start("w2")
    with w1.connect() as one, w2.connect() as two:
        one.serve(ring, image, 1)
        data = os.urandom(4096)
        ring.write(0, data)
        one.call("drain", device="disk", timeout_ms=5000)
        assert ring_fds_of(w1.pid) == [], "uio can not be opened again while any fd is left"
        two.serve(ring, image, 2, "recover")
        assert ring.read(0, 8).data == data
        two.call("drain", device="disk", timeout_ms=5000)
        one.serve(ring, image, 3, "recover")
        assert ring.read(0, 8).data == data


def test_drain_of_what_is_not_served_is_refused(start: Start, image: dict[str, Any]) -> None:
    with start().connect() as client:
        client.call("prewarm", device="warm", image=image)
        for name in ("warm", "unknown"):
            with pytest.raises(StateError) as caught:
                client.call("drain", device=name, timeout_ms=0)
            assert caught.value.fields["code"] == "NOT_SERVED"


def test_a_standby_follows_the_writer(
    start: Start, new_writable: Callable[..., dict[str, Any]], rings: Callable[..., FakeRing]
) -> None:
    ring, image = rings(), new_writable()
    with start("w1").connect() as writer, start("w2").connect() as standby:
        writer.serve(ring, image, 1)
        standby.call("prewarm", device="disk", image=image)

        def image_row(client: Client) -> Any:
            (row,) = client.call("stats", device="disk")["devices"]
            return row["image"]

        def records(client: Client) -> int:
            # The row is null while the follower's job has the image.
            return int(eventually(lambda: image_row(client))["upper_records"])

        before = records(standby)
        for lba in range(0, 800, 8):
            assert ring.write(lba, os.urandom(4096)).status == 0
        eventually(lambda: records(standby) >= before + 100)
        assert records(standby) == records(writer)


def test_a_broken_ring_loses_that_device_alone(
    start: Start, image: dict[str, Any], rings: Callable[..., FakeRing]
) -> None:
    bad, good = rings("bad"), rings("good")
    worker = start()
    with worker.connect() as client:
        client.serve(bad, image, 1)
        client.serve(good, image, 1)
        bad.break_head()

        def lost() -> dict[str, Any]:
            rows = {row["name"]: row for row in client.call("stats")["devices"]}
            return rows["bad"] if rows["bad"]["state"] == "lost" else {}

        assert eventually(lost)["failed"] == "OBD_E_RING"
        rows = {row["name"]: row for row in client.call("hello")["devices"]}
        assert rows["bad"]["failed"] == "OBD_E_RING"
        assert rows["good"]["failed"] is None
        eventually(lambda: not [t for t in ring_fds_of(worker.pid) if "bad" in t])
        assert good.read(0, 8).status == 0
        with pytest.raises(StateError) as caught:
            client.call("drain", device="bad", timeout_ms=0)
        assert caught.value.fields["code"] == "OBD_E_RING"


# -- supervisors come and go -----------------------------------------------------------------------
def test_the_next_supervisor_gets_the_fds_from_hello(
    start: Start, image: dict[str, Any], rings: Callable[..., FakeRing]
) -> None:
    ring = rings()
    worker = start()
    with worker.connect() as gone:
        gone.send("serve", ring.fds, **serve_fields(ring, image, 4))
    # closed without reading the answer: the worker serves all the same
    with worker.connect() as client:
        eventually(lambda: client.call("hello")["devices"])
        client.send("hello")
        packet = client.receive()
        (row,) = packet.body["devices"]
        assert (row["name"], row["generation"]) == ("disk", 4)
        assert row["ring"]["kind"] == "memfd"
        assert row["ring"]["fd_count"] == 3
        assert len(packet.fds) == 4
        for own, passed in zip(ring.fds, packet.fds, strict=True):
            assert os.path.sameopenfile(own, passed)
        packet.close_fds()
    assert ring.read(0, 8).status == 0


def test_a_slow_open_delays_nobody_else(
    start: Start, image: dict[str, Any], tmp_path: Path, rings: Callable[..., FakeRing]
) -> None:
    slow = tmp_path / "slow.obd"
    os.mkfifo(slow)  # opening it waits for a writer
    ring = rings()
    worker = start(program=SLOW_PROGRAM)
    with worker.connect() as stuck, worker.connect() as client:
        stuck.send("prewarm", device="slow", image={"lowers": [str(slow)], "upper": None})
        order = [stuck.send("hello")]
        client.serve(ring, image, 1)
        assert ring.read(0, 8).status == 0
        assert client.call("hello")["pid"] == worker.pid
        stuck.sock.settimeout(0.2)
        with pytest.raises(TimeoutError):  # its answers keep their order
            stuck.receive()
        stuck.sock.settimeout(30)
        open_for_writing(slow)
        with pytest.raises(ObdError):
            unpack(stuck.receive().body)
        assert stuck.receive().body["id"] == order[0]


def test_requests_for_one_device_wait_for_each_other(
    start: Start, image: dict[str, Any], tmp_path: Path, rings: Callable[..., FakeRing]
) -> None:
    slow = tmp_path / "slow.obd"
    os.mkfifo(slow)
    ring = rings()
    worker = start(program=SLOW_PROGRAM)
    with worker.connect() as stuck, worker.connect() as client, worker.connect() as third:
        stuck.send("prewarm", device="disk", image={"lowers": [str(slow)], "upper": None})
        client.send("serve", ring.fds, **serve_fields(ring, image, 1))
        eventually(lambda: third.call("hello")["changing"] == ["disk"])  # it waits, and will come
        assert third.call("hello")["devices"] == []
        open_for_writing(slow)
        with pytest.raises(ObdError):
            unpack(stuck.receive().body)
        assert unpack(client.receive().body)["recovered"] == 0
        assert third.call("hello")["changing"] == []
        assert ring.read(0, 8).status == 0


# -- nonsense --------------------------------------------------------------------------------------
def test_nonsense_is_answered_and_the_connection_lives_on(start: Start) -> None:
    with start().connect() as client:
        for data in (b"{", b"[]", b'"x"', b'{"v":99,"id":1,"op":"hello"}', b"\xff\xfe", b"{}"):
            client.send_raw(data)
            assert isinstance(error_of(client.receive().body), ControlError)
        with pytest.raises(ControlError, match="unknown operation"):
            client.call("reboot")
        with pytest.raises(ConfigError, match="device"):
            client.call("prewarm", image={"lowers": ["/x"]})
        assert client.call("hello")["devices"] == []


def test_too_many_fds_are_refused_and_closed(start: Start) -> None:
    worker = start()
    null = os.open(os.devnull, os.O_RDONLY)
    try:
        with worker.connect() as client:
            client.call("hello")
            before = fd_targets(worker.pid)
            for count in (1, 5, 64, 65, 100):
                client.send_raw(b'{"v":1,"id":9,"op":"hello"}', [null] * count)
                assert isinstance(error_of(client.receive().body), ControlError)
            assert fd_targets(worker.pid) == before
            assert client.call("hello")["devices"] == []
    finally:
        os.close(null)


def test_refused_serves_leave_no_fd_behind(
    start: Start, image: dict[str, Any], rings: Callable[..., FakeRing], tmp_path: Path
) -> None:
    ring = rings()
    worker = start()
    nowhere = {"lowers": [str(tmp_path / "nowhere")], "upper": None}
    with worker.connect() as client:
        client.call("hello")
        before = fd_targets(worker.pid)
        for bad in (
            {"image": nowhere},
            {"mode": "x"},
            {"image": {"lowers": 5}},
            {"generation": -1},
            {"ring": {"kind": "uio", "map_bytes": 4096}},
        ):
            with pytest.raises(ObdError):
                client.call("serve", ring.fds, **{**serve_fields(ring, image, 1), **bad})
        assert fd_targets(worker.pid) == before


def test_only_root_may_connect(start: Start) -> None:
    """By the socket's mode, and by the peer's credentials when somebody widened the mode."""
    directory = Path(tempfile.mkdtemp(prefix="obdsup-test-"))
    directory.chmod(0o755)
    worker = None
    try:
        worker = WorkerProcess(directory)
        assert stat.S_IMODE(worker.path.stat().st_mode) == 0o600
        if os.geteuid() != 0:
            pytest.skip("needs root to become another user")
        path = str(worker.path)

        def try_it() -> int:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
                try:
                    sock.connect(path)
                except PermissionError:
                    return 1
                data = sock.recv(65536)
                return 2 if b'"AccessDenied"' in data and sock.recv(1) == b"" else 3

        assert run_as_nobody(try_it) == 1
        worker.path.chmod(0o666)
        assert run_as_nobody(try_it) == 2
        assert AccessDenied.__name__ == "AccessDenied"
        with worker.connect() as client:
            client.call("hello")
    finally:
        if worker is not None:
            worker.close()
        shutil.rmtree(directory)


def test_a_peer_that_does_not_read_loses_its_connection_only(start: Start) -> None:
    worker = start()
    with worker.connect() as deaf, worker.connect() as client:
        deaf.sock.setblocking(False)
        with pytest.raises((BlockingIOError, BrokenPipeError, ConnectionResetError)):
            ask_for_ever(deaf)
        eventually(lambda: client.call("hello")["pid"] == worker.pid)


# -- ends ------------------------------------------------------------------------------------------
def test_sigterm_drains_and_exits_zero(
    start: Start, new_writable: Callable[..., dict[str, Any]], rings: Callable[..., FakeRing]
) -> None:
    ring, image = rings(), new_writable()
    old, new = start("w1"), start("w2")
    with old.connect() as client, new.connect() as heir:
        client.serve(ring, image, 1)
        data = os.urandom(512)
        ring.write(3, data)
        assert old.terminate() == 0
        assert not old.path.exists()
        answer = heir.serve(ring, image, 2, "recover")
        assert answer["recovered"] == 0
        assert ring.read(3, 1).data == data


def test_stop_is_refused_while_serving(
    start: Start, image: dict[str, Any], rings: Callable[..., FakeRing]
) -> None:
    ring, worker = rings(), start()
    with worker.connect() as client:
        client.serve(ring, image, 1)
        with pytest.raises(StateError, match="serves disk"):
            client.call("stop")
        client.call("drain", device="disk", timeout_ms=5000)
        client.call("stop")
        assert worker.process.wait(timeout=60) == 0
        assert not worker.path.exists()


def test_a_second_worker_on_the_same_socket_is_refused(start: Start) -> None:
    worker = start()
    command = [sys.executable, "-m", "obdsup.worker", "--id", "w1", "--socket", str(worker.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == AlreadyServed.exit_code
    assert str(worker.path) in done.stderr
    with worker.connect() as client:
        client.call("hello")


def test_a_socket_file_left_by_a_dead_worker_is_replaced(start: Start) -> None:
    first = start()
    first.kill()
    assert first.path.exists()
    with start().connect() as client:
        client.call("hello")


@pytest.mark.parametrize("arguments", [[], ["--id", "x"], ["--socket", "/x", "--id"], ["--what"]])
def test_wrong_usage_exits_two(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "obdsup.worker", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 2
    assert "usage" in done.stderr


def test_a_socket_path_that_can_not_be_is_a_config_error(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "w.sock"
    command = [sys.executable, "-m", "obdsup.worker", "--id", "x", "--socket", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == ConfigError.exit_code
    assert str(path) in done.stderr


# -- memory ----------------------------------------------------------------------------------------
def test_memory_of_idle_devices_stays_in_budget(
    start: Start, image: dict[str, Any], rings: Callable[..., FakeRing]
) -> None:
    """One idle device: at most 12 MiB private; each further one at most 1 MiB."""
    worker = start()
    with worker.connect() as client:
        for number in range(9):
            ring = rings(f"disk{number}")
            client.serve(ring, image, 1)
            assert ring.read(0, 8).status == 0
            if number == 0:
                one_kib = worker.private_kib()
        assert one_kib <= 12 * MIB
        assert (worker.private_kib() - one_kib) / 8 <= 1 * MIB
