"""In the guest: devices that others make in configfs, as containerd's overlaybd snapshotter does.

The other side is the kernel itself; ``guest.foreign`` stands in for overlaybd-tcmu. One supervisor
and one set of images for all checks: emulated, a start takes seconds.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from guest.checks.guest_supervisor import GuestSupervisor, eventually
from guest.checks.report import named_checks, run_checks
from guest.foreign.maker import HBA, ForeignMaker, make_ext4_layer
from obdsup.format import config as image_config
from obdsup.format.image import Image
from obdsup.format.upper_writer import create_upper

DEVICES_AT_ONCE = 100
LAYER_BYTES = 16 << 20
UPPER_BYTES = 64 << 20
PATIENCE_S = 180.0
WRITTEN_BYTES = 4 << 20
_ROUND_PAUSE_S = 0.2  # two emulated CPUs are soon busy


class Images:
    """What snapshots look like on disk: a folder each, with config and result file."""

    def __init__(self, folder: Path) -> None:
        _run("modprobe", "-a", "target_core_user", "tcm_loop", "sd_mod")
        self.folder = folder
        folder.mkdir()
        self.content = {f"file-{n}": os.urandom(200_000) for n in range(4)}
        self.disk, self.layer = make_ext4_layer(folder, self.content, LAYER_BYTES)

    def config(self, name: str, value: dict[str, Any] | None = None, **more: Any) -> Path:
        snapshot = self.folder / name
        snapshot.mkdir()
        whole = {"lowers": [{"file": str(self.layer)}], "resultFile": str(snapshot / "result")}
        path = snapshot / "config.v1.json"
        path.write_text(json.dumps(whole | (value or {}) | more))
        return path

    def writable(self, name: str) -> Path:
        """An empty disk of its own."""
        data, index = str(self.folder / f"{name}.data"), str(self.folder / f"{name}.index")
        create_upper(data, index, UPPER_BYTES)
        return self.config(name, lowers=[], upper={"data": data, "index": index})


def result_of(config: Path) -> str:
    path = config.parent / "result"
    return path.read_text() if path.exists() else ""


@functools.cache
def _images() -> Images:
    return Images(Path("/tmp/drop-in"))


@functools.cache
def _supervisor() -> GuestSupervisor:
    """Started by the first check that uses it."""
    root = Path("/tmp/drop-in-supervisor")
    root.mkdir()
    return GuestSupervisor(root, "--provider", "tcmu", "--foreign-per-worker", "16")


@contextlib.contextmanager
def _supervised() -> Iterator[GuestSupervisor]:
    """It serves no device before and after."""
    supervisor = _supervisor()
    try:
        if not supervisor.is_running:
            supervisor.start()
        yield supervisor
        assert supervisor.names() == []
    except BaseException:
        print(supervisor.log_text()[-6000:], flush=True)
        raise


def _in_parallel(calls: list[Callable[[], object]]) -> list[object]:
    """Their results or exceptions, in order."""
    with ThreadPoolExecutor(len(calls)) as pool:
        futures = [pool.submit(call) for call in calls]
        return [future.exception() or future.result() for future in futures]


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command} exited {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout


# -- taken over and handed back ------------------------------------------------------------------


class Reader:
    """Reads files over and over, past the page cache, and compares; ends at a difference."""

    def __init__(self, mount_point: Path, content: dict[str, bytes]) -> None:
        self.rounds = 0
        self.failure = ""
        self._stopped = threading.Event()
        self._files = {mount_point / name: data for name, data in content.items()}
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while not self._stopped.is_set() and not self.failure:
            for path, data in self._files.items():
                try:
                    fd = os.open(path, os.O_RDONLY)
                    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                    found = os.read(fd, len(data) + 1)
                    os.close(fd)
                except OSError as error:
                    self.failure = f"{path}: {error.strerror}"
                    return
                if found != data:
                    self.failure = f"{path}: other bytes"
                    return
            self.rounds += 1
            self._stopped.wait(_ROUND_PAUSE_S)

    def goes_on(self, what: str) -> None:
        """Waits for two more rounds."""
        wanted = self.rounds + 2
        eventually(lambda: self.failure or self.rounds >= wanted, PATIENCE_S, what)
        assert not self.failure, self.failure

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive(), "the reader hangs"
        assert not self.failure, self.failure


class Daemon:
    """The fake overlaybd-tcmu of one device."""

    def __init__(self, device: str, backing: Path, *options: str) -> None:
        self._child = subprocess.Popen(
            [
                sys.executable, "-m", "guest.foreign.daemon",
                str(HBA), device, str(backing), *options,
            ],
            stdout=subprocess.PIPE,
        )  # fmt: skip
        self.wait_for(b"ready\n")

    @property
    def pid(self) -> int:
        return self._child.pid

    def wait_for(self, line: bytes) -> None:
        assert self._child.stdout is not None
        found = self._child.stdout.readline()
        assert found == line, found

    def kill(self) -> None:
        self._child.kill()
        self._child.wait()


def check_adopt_and_release_with_a_mount_and_writes_in_flight(folder: Path) -> None:
    """First of all: no listener has told the kernel yet to wait for answers."""
    images = _images()
    read_only = ForeignMaker(1, images.config("read-only"))
    writable_config = images.writable("writable")
    writable = ForeignMaker(2, writable_config)
    backing = folder / "backing"
    backing.touch()
    os.truncate(backing, UPPER_BYTES)
    mount_point = folder / "mnt"
    mount_point.mkdir()
    for maker in (read_only, writable):
        maker.create()
    daemons = [
        Daemon(read_only.name, images.disk),
        Daemon(writable.name, backing, "--hold-writes"),
    ]
    disk, writable_disk = read_only.link(), writable.link()
    _run("mount", "-t", "ext4", "-o", "ro", str(disk), str(mount_point))
    reader = Reader(mount_point, images.content)
    data = os.urandom(WRITTEN_BYTES)
    source = folder / "data"
    source.write_bytes(data)
    writer = subprocess.Popen(
        ["dd", f"if={source}", f"of={writable_disk}", "bs=512k", "oflag=direct", "status=none"]
    )
    daemons[1].wait_for(b"holding\n")
    with _supervised() as supervisor:
        assert "overlaybd-tcmu" in supervisor.events("operation.refused")[-1]["fields"]["reason"]
        rows = supervisor.ask("adopt", all=True, dry_run=True)
        assert [row["outcome"] for row in rows] == ["refused", "refused"], rows
        assert str(daemons[0].pid) in rows[0]["reason"], rows
        code, answer = supervisor.command("adopt", "--all")
        assert code != 0, answer
        assert str(daemons[0].pid) in answer["error"]["message"], answer
        reader.goes_on("the daemon serves on")
        for daemon in daemons:
            daemon.kill()
        assert writer.poll() is None, "no write was in flight"
        code, rows = supervisor.command("adopt", "--all")
        assert (code, [row["outcome"] for row in rows]) == (0, ["adopted", "adopted"]), rows
        assert [row["block_device"] for row in rows] == [str(disk), str(writable_disk)]
        reader.goes_on("adopted")
        assert writer.wait(PATIENCE_S) == 0, "the writer got an error"
        assert _direct_read(writable_disk, WRITTEN_BYTES) == data
        assert result_of(writable_config) == "success"

        code, rows = supervisor.command("release", "--all")
        assert (code, [row["outcome"] for row in rows]) == (0, ["released", "released"]), rows
        assert supervisor.names() == []
        assert _image_starts_with(writable_config, data), "the upper is not complete"
        daemon = Daemon(read_only.name, images.disk)
        reader.goes_on("handed back")
        daemon.kill()
        (row,) = supervisor.ask("adopt", names=[read_only.name])
        assert row["outcome"] == "adopted", row
        reader.goes_on("adopted again")
        (row,) = supervisor.ask("adopt", names=[writable.name])
        assert row["outcome"] == "adopted", row
        reader.stop()
        _run("umount", str(mount_point))
        for maker in (read_only, writable):
            maker.remove()
        eventually(lambda: not supervisor.names(), PATIENCE_S, "removed devices are forgotten")


def _direct_read(disk: Path, length: int) -> bytes:
    command = ["dd", f"if={disk}", "bs=512k", f"count={length >> 19}", "iflag=direct"]
    return subprocess.run(command, capture_output=True, check=True).stdout


def _image_starts_with(config: Path, data: bytes) -> bool:
    with Image(image_config.load(str(config))) as image:
        return image.read(0, len(data)) == data


# -- made and removed ----------------------------------------------------------------------------


def check_a_hundred_at_once_are_served_and_removed(folder: Path) -> None:
    images = _images()
    configs = [images.config(str(number)) for number in range(DEVICES_AT_ONCE)]
    makers = [ForeignMaker(100 + number, config) for number, config in enumerate(configs)]
    digest = hashlib.sha256(images.disk.read_bytes()).hexdigest()
    # The kernel removes the devices of one HBA one after the other; emulated, that takes minutes.
    Path("/proc/sys/kernel/hung_task_timeout_secs").write_text("900")
    with _supervised() as supervisor:
        begin_s = time.monotonic()
        failures = [r for r in _in_parallel([maker.create for maker in makers]) if r is not None]
        took_s, spawned = time.monotonic() - begin_s, len(supervisor.events("worker.spawned"))
        print(f"  {DEVICES_AT_ONCE} made in {took_s:.1f} s, {spawned} workers started", flush=True)
        assert not failures, failures[:3]
        assert all(maker.is_enabled for maker in makers)
        assert {result_of(config) for config in configs} == {"success"}
        assert len(supervisor.names()) == DEVICES_AT_ONCE
        for maker in (makers[0], makers[50], makers[99]):
            disk = maker.link()
            assert hashlib.sha256(disk.read_bytes()).hexdigest() == digest
            eventually(
                lambda m=maker, d=disk: supervisor.show(m.name)["block_device"] == str(d),  # type: ignore[misc]
                PATIENCE_S, "the disk is noticed",
            )  # fmt: skip
        begin_s = time.monotonic()
        failures = [r for r in _in_parallel([maker.remove for maker in makers]) if r is not None]
        print(f"  removed in {time.monotonic() - begin_s:.1f} s", flush=True)
        assert not failures, failures[:3]
        assert supervisor.names() == []


def _refused(maker: ForeignMaker) -> int:
    """The errno that enabling it fails with; the device is gone afterwards."""
    try:
        maker.create()
    except OSError as error:
        assert not maker.is_enabled
        return error.errno or 0
    finally:
        maker.remove()
    return 0


def check_bad_images_are_refused_with_a_reason_and_delay_nobody(folder: Path) -> None:
    images = _images()
    typed = images.config("typed", lowers=5)
    lower = images.config("lower", lowers=[{"file": "/none/layer.obd"}])
    (folder / "garbage.obd").write_bytes(os.urandom(8192))
    garbage = images.config("garbage", lowers=[{"file": str(folder / "garbage.obd")}])
    # A file of a file system whose disk's server is stopped: a lower that never answers.
    server = ForeignMaker(200, images.config("server"), subtype="another")
    server.create("nl_reply_supported=-1")
    daemon = Daemon(server.name, images.disk, "--no-name")
    mount_point = folder / "mnt"
    mount_point.mkdir()
    _run("mount", "-t", "ext4", "-o", "ro", str(server.link()), str(mount_point))
    mute = mount_point / "file-0"
    silent = images.config("silent", lowers=[{"file": str(mute)}])
    held = os.open(mute, os.O_RDONLY)  # its name and size stay known, its bytes do not
    os.posix_fadvise(held, 0, 0, os.POSIX_FADV_DONTNEED)
    os.kill(daemon.pid, signal.SIGSTOP)
    with _supervised() as supervisor:
        answers: list[int] = []
        slow = threading.Thread(target=lambda: answers.append(_refused(ForeignMaker(201, silent))))
        slow.start()
        assert _refused(ForeignMaker(202, typed)) == errno.EINVAL
        assert result_of(typed).startswith("failed:"), result_of(typed)
        assert "lowers" in result_of(typed)
        assert _refused(ForeignMaker(203, folder / "none.json")) == errno.ENOENT
        assert _refused(ForeignMaker(204, lower)) == errno.ENOENT
        assert "/none/layer.obd" in result_of(lower)
        assert _refused(ForeignMaker(205, garbage)) == errno.EINVAL
        assert "garbage.obd" in result_of(garbage)
        good = ForeignMaker(206, images.config("good"), "id-1")
        good.create()
        assert _refused(ForeignMaker(207, images.config("same-id"), "id-1")) == errno.EBUSY
        assert slow.is_alive(), "the silent one was refused at once: it proves nothing"
        assert not answers
        slow.join(PATIENCE_S)
        assert answers == [errno.ETIMEDOUT], answers
        assert result_of(silent).startswith("failed:"), result_of(silent)
        assert supervisor.names() == [good.name]
        os.kill(daemon.pid, signal.SIGCONT)
        os.close(held)
        eventually(
            lambda: subprocess.run(["umount", str(mount_point)], check=False).returncode == 0,
            PATIENCE_S, "the worker that waited for it is gone",
        )  # fmt: skip
        good.remove()
        server.remove()
        daemon.kill()
        assert supervisor.names() == []


def check_resize_is_answered(folder: Path) -> None:
    images = _images()
    maker = ForeignMaker(300, images.config("one"))
    with _supervised() as supervisor:
        maker.create()
        disk = maker.link()
        size = maker.core / "attrib" / "dev_size"
        size.write_text(str(LAYER_BYTES))
        assert size.read_text().strip() == str(LAYER_BYTES)
        assert len(supervisor.events("device.resized")) == 1
        refusals = _in_parallel([lambda: size.write_text(str(LAYER_BYTES * 2))])
        assert [getattr(one, "errno", None) for one in refusals] == [errno.EINVAL], refusals
        assert _direct_read(disk, LAYER_BYTES) == images.disk.read_bytes()
        assert int(Path(f"/sys/block/{disk.name}/size").read_text()) * 512 == LAYER_BYTES
        maker.remove()


def check_a_device_that_nobody_can_open_is_removed(folder: Path) -> None:
    """Of our own; its disk sends commands until it is gone, and no worker is there to answer."""
    images = _images()
    layer = folder / "layer.obd"
    layer.write_bytes(images.layer.read_bytes())
    config = images.config("lost", lowers=[{"file": str(layer)}])
    with _supervised() as supervisor:
        disk = Path(supervisor.ask("device.create", name="lost", image=str(config))["block_device"])
        assert _direct_read(disk, LAYER_BYTES) == images.disk.read_bytes()
        layer.unlink()
        for worker in supervisor.ask("status")["workers"]:  # standbys have it open, too
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(worker["pid"]), signal.SIGKILL)
        eventually(
            lambda: supervisor.show("lost")["phase"] == "blocked", PATIENCE_S, "it is blocked"
        )
        assert supervisor.command("device", "remove", "lost")[0] == 0
        assert not disk.exists(), f"{disk} is still there"


# -- the supervisor goes and comes ---------------------------------------------------------------


def check_devices_outlive_supervisors_and_creates_meet_none(folder: Path) -> None:
    images = _images()
    first = ForeignMaker(400, images.config("first"))
    away = ForeignMaker(401, images.config("away"))
    stopped = ForeignMaker(402, images.config("stopped"))
    with _supervised() as supervisor:
        first.create()
        disk = first.link()
        supervisor.kill()
        maker = threading.Thread(target=away.create)  # waits for a listener
        maker.start()
        assert _direct_read(disk, LAYER_BYTES) == images.disk.read_bytes()
        supervisor.start()
        maker.join(PATIENCE_S)
        assert not maker.is_alive(), "enable hangs"
        assert sorted(supervisor.names()) == [first.name, away.name]
        first.unlink()
        supervisor.kill()
        remover = threading.Thread(target=first.remove)
        remover.start()
        supervisor.start()
        remover.join(PATIENCE_S)
        assert not remover.is_alive(), "rmdir hangs"
        eventually(lambda: supervisor.names() == [away.name], PATIENCE_S, "it is forgotten")
        supervisor.stop()
        maker = threading.Thread(target=stopped.create)
        maker.start()
        eventually(lambda: stopped.tried_again, PATIENCE_S, "its maker is told to try again")
        supervisor.start()
        maker.join(PATIENCE_S)
        assert stopped.is_enabled
        for one in (away, stopped):
            one.remove()
        assert supervisor.names() == []


CHECKS = named_checks(globals())

if __name__ == "__main__":
    raise SystemExit(run_checks(CHECKS, sys.argv[1:]))
