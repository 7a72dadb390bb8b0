"""In a guest whose PID 1 is systemd: the unit of packaging/systemd, and what its verbs do to I/O.

One scene for all checks: a container on an ext4 of one device, and on another one a load that
checks every sector it reads. After each verb both must have gone on without an error, the container
as the same process.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from guest.checks.guest_supervisor import eventually
from guest.checks.report import named_checks, run_checks
from obdsup.errors import ControlError
from obdsup.state.control import ControlClient

_REPO = Path(__file__).resolve().parents[2]
_UNIT = _REPO / "packaging" / "systemd" / "obdsup.service"
_SECTORS = _REPO / "obdsup" / "_bin" / "obdsup-sectors"
_VENV = Path(sys.executable).parent.parent
_PATIENCE_S = 240.0
_SYSTEMCTL_PAUSE_S = 0.5  # it takes half a processor
_FDS_PER_DEVICE = 2  # its uio device and its journal
_LOOP = """i=0
while :; do
  i=$((i+1))
  dd if=/dev/urandom of=/data bs=4k count=4 conv=fsync 2>/dev/null || echo "write $i" >>/failed
  md5sum /data >/sum && md5sum -c -s /sum || echo "read $i" >>/failed
  echo $i >/count
  sleep 0.3
done
"""


def _run(*command: str) -> str:
    begin_s = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    took_s = time.monotonic() - begin_s
    if took_s > 1.0:
        print(f"    {took_s:.1f} s: {' '.join(command)[:80]}", flush=True)
    assert done.returncode == 0, f"{command} exited {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout


def _eventually(predicate: Callable[[], Any], what: str) -> Any:
    return eventually(predicate, _PATIENCE_S, what)


class Scene:
    """The service, two devices, a container and a checked load; made once, used by all checks."""

    def __init__(self) -> None:
        self.client = ControlClient("/run/obdsup/obdsup.sock", timeout_s=_PATIENCE_S)
        self._folder = Path("/tmp/scene")
        self._folder.mkdir(parents=True)
        self._install()
        _run("systemctl", "start", "obdsup")
        self.disk = self._device("disk")
        self.raw = self._device("raw")
        self._mount = self._folder / "mnt"
        self._rootfs = self._mount / "rootfs"
        self._make_rootfs()
        self.container_pid = self._start_container()
        self._load = self._start_load()

    def _install(self) -> None:
        unit = _UNIT.read_text().replace("/opt/obdsup/current", str(_VENV))
        Path("/etc/systemd/system/obdsup.service").write_text(unit)
        for module in _UNIT.with_name("modules-load.conf").read_text().splitlines():
            if not module.startswith("#"):
                _run("modprobe", module)
        _run("systemctl", "daemon-reload")

    def _device(self, name: str) -> str:
        obdsup = str(_VENV / "bin" / "obdsup")
        data, index = (str(self._folder / f"{name}.{part}") for part in ("data", "index"))
        _run(obdsup, "image", "new-upper", "--size", "128M", data, index)
        config = self._folder / f"{name}.json"
        upper = {"data": data, "index": index}
        config.write_text(json.dumps({"repoBlobUrl": "", "lowers": [], "upper": upper}))
        made = self.client.call("device.create", name=name, image=str(config), writable=True)
        assert made["provider"] == "tcmu", made
        return str(made["block_device"])

    def _make_rootfs(self) -> None:
        _run("mkfs.ext4", "-q", self.disk)
        self._mount.mkdir()
        _run("mount", self.disk, str(self._mount))
        (self._rootfs / "bin").mkdir(parents=True)
        for folder in ("proc", "dev"):
            (self._rootfs / folder).mkdir()
        shutil.copy("/bin/busybox", self._rootfs / "bin" / "busybox")
        for tool in ("sh", "dd", "md5sum", "sleep"):
            (self._rootfs / "bin" / tool).symlink_to("busybox")

    def _start_container(self) -> int:
        _run("runc", "spec", "--bundle", str(self._folder))
        config = json.loads((self._folder / "config.json").read_text())
        config["root"] = {"path": str(self._rootfs), "readonly": False}
        config["process"].update(terminal=False, args=["/bin/sh", "-c", _LOOP])
        (self._folder / "config.json").write_text(json.dumps(config))
        pid_file = self._folder / "pid"
        with (self._folder / "container.log").open("ab") as log:  # kept by it: no pipe of ours
            code = subprocess.run(
                ["runc", "run", "--detach", "--pid-file", str(pid_file), "box"],
                cwd=self._folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False,
            ).returncode  # fmt: skip
        assert code == 0, (self._folder / "container.log").read_text()
        return int(pid_file.read_text())

    def _start_load(self) -> subprocess.Popen[bytes]:
        log = (self._folder / "load.log").open("ab")
        command = [str(_SECTORS), "--qd", "8", "--iops", "60", "--max-sectors", "32"]
        command += ["--span", str(16 << 20), "--drain-seconds", "60"]
        command += ["--latency", str(self._folder / "latency"), self.raw]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    # -- what is seen --------------------------------------------------------------------------
    def operations(self) -> int:
        path = self._folder / "latency"
        lines = path.read_text().splitlines()[:-1] if path.exists() else []
        return sum(int(line.split()[1]) for line in lines if line[:1].isdigit())

    def rounds(self) -> int:
        path = self._rootfs / "count"
        text = path.read_text().strip() if path.exists() else ""
        return int(text) if text else 0

    def status(self) -> Any:
        try:
            return self.client.call("status")
        except ControlError:
            return None

    def workers(self) -> dict[str, int]:
        return {
            name: int(self.client.call("device.show", name=name)["worker"]["pid"])
            for name in ("disk", "raw")
        }

    def show(self, name: str) -> Any:
        return self.client.call("device.show", name=name)

    def is_online(self) -> bool:
        return all(self.show(name)["phase"] == "online" for name in ("disk", "raw"))

    def prop(self, name: str) -> str:
        return _run("systemctl", "show", "--property", name, "--value", "obdsup").strip()

    def supervisor(self) -> int:
        return int(self.prop("MainPID"))

    def goes_on(self) -> None:
        """All is served again, load and container advance, the container is the same process."""

        _eventually(
            lambda: self.status() is not None and self.is_online(),
            f"devices online: {self.status()}",
        )
        pid = self.supervisor()
        assert self.status()["pid"] == pid, f"not the unit's main process {pid} answers"
        operations, rounds = self.operations(), self.rounds()
        _eventually(lambda: self.operations() > operations + 20, "the load goes on")
        _eventually(lambda: self.rounds() > rounds + 1, "the container goes on")
        assert self._load.poll() is None, (self._folder / "load.log").read_text()
        assert not (self._rootfs / "failed").exists(), (self._rootfs / "failed").read_text()
        assert Path(f"/proc/{self.container_pid}").exists(), "the container is gone"
        eventually(
            lambda: int(self.prop("NFileDescriptorStore")) == 2 * _FDS_PER_DEVICE,
            _PATIENCE_S, "rings and journals in the fd store", pause_s=_SYSTEMCTL_PAUSE_S,
        )  # fmt: skip

    def wait_for_another_supervisor(self, before: int) -> None:
        """The unit has another main process that answers."""

        def is_there() -> bool:
            status = self.status()
            return status is not None and status["pid"] != before

        _eventually(is_there, "another supervisor")

    def finish(self) -> None:
        """Ends load and container; everything read back must be what was written."""
        self._load.send_signal(signal.SIGTERM)
        assert self._load.wait(_PATIENCE_S) == 0, (self._folder / "load.log").read_text()
        _run("runc", "delete", "--force", "box")
        _run("umount", str(self._mount))
        _run("e2fsck", "-fn", self.disk)
        for name in ("disk", "raw"):
            self.client.call("device.remove", name=name)


@functools.cache
def _made() -> Scene | str:
    try:
        return Scene()
    except Exception:  # noqa: BLE001 - once; all checks then fail by it
        return traceback.format_exc()


def scene() -> Scene:
    made = _made()
    assert isinstance(made, Scene), made
    return made


def check_start_serves_a_container_and_fills_the_fd_store(_folder: Path) -> None:
    scene().goes_on()
    assert scene().prop("Type") == "notify"


def _replaced(verb: Callable[[], object]) -> None:
    """A verb after which another supervisor serves, and the same workers."""
    workers, before = scene().workers(), scene().supervisor()
    verb()
    scene().wait_for_another_supervisor(before)
    scene().goes_on()
    assert scene().workers() == workers
    assert [scene().show(name)["takeovers"] for name in workers] == [0, 0]


def check_restart_leaves_workers_alone(_folder: Path) -> None:
    _replaced(lambda: _run("systemctl", "restart", "obdsup"))


def check_a_killed_supervisor_is_started_again(_folder: Path) -> None:
    _replaced(lambda: _run("systemctl", "kill", "-s", "KILL", "--kill-whom=main", "obdsup"))


def check_stop_and_start(_folder: Path) -> None:
    def stop_and_start() -> None:
        _run("systemctl", "stop", "obdsup")
        assert scene().prop("ActiveState") == "inactive"
        operations = scene().operations()
        _eventually(lambda: scene().operations() > operations + 20, "load without a supervisor")
        _run("systemctl", "start", "obdsup")

    _replaced(stop_and_start)


def check_reload_is_in_place(_folder: Path) -> None:
    workers, before = scene().workers(), scene().supervisor()
    started, restarts = scene().client.call("status")["started"], scene().prop("NRestarts")
    _run("systemctl", "reload", "obdsup")
    scene().goes_on()
    assert scene().supervisor() == before
    assert scene().client.call("status")["started"] > started
    assert scene().workers() == workers
    assert scene().prop("NRestarts") == restarts


def check_supervisor_and_workers_killed_at_once(_folder: Path) -> None:
    """The kernel does not let a ring be opened twice: what the fd store gave back is used."""
    before, workers = scene().supervisor(), scene().workers()
    _run("systemctl", "kill", "-s", "KILL", "--kill-whom=all", "obdsup")
    scene().wait_for_another_supervisor(before)
    scene().goes_on()
    for name, pid in workers.items():
        shown = scene().show(name)
        assert shown["worker"]["pid"] != pid
        assert (shown["takeovers"], shown["resets"]) == (1, 0), shown


def check_events_are_in_the_journal_with_their_fields(_folder: Path) -> None:
    def takeovers() -> list[dict[str, Any]]:
        words = ["--no-pager", "-o", "json", "OBDSUP_EVENT=takeover.done"]
        return [json.loads(line) for line in _run("journalctl", *words).splitlines()]

    found = eventually(
        lambda: (rows := takeovers()) and len(rows) >= 2 and rows, _PATIENCE_S,
        "both take-overs in the journal", pause_s=_SYSTEMCTL_PAUSE_S,
    )  # fmt: skip
    assert {row["OBDSUP_DEVICE"] for row in found} == {"disk", "raw"}, found
    for row in found:
        assert row["_SYSTEMD_UNIT"] == "obdsup.service", row
        assert row["SYSLOG_IDENTIFIER"] == "obdsupd", row
        assert row["PRIORITY"] == "6", row
        assert row["MESSAGE"].startswith("takeover.done"), row
        assert int(row["OBDSUP_GEN"]) > 1, row


def check_a_stopped_supervisor_is_noticed_by_the_watchdog(_folder: Path) -> None:
    """Its times are shorter than the unit's: what they are is not what is tested."""
    folder = Path("/run/systemd/system/obdsup.service.d")
    folder.mkdir()
    (folder / "times.conf").write_text("[Service]\nWatchdogSec=10\nTimeoutAbortSec=2\n")
    _run("systemctl", "daemon-reload")
    before = scene().supervisor()
    os.kill(before, signal.SIGSTOP)
    scene().wait_for_another_supervisor(before)
    scene().goes_on()


def check_all_that_was_written_is_there(_folder: Path) -> None:
    scene().finish()


CHECKS = named_checks(globals())

if __name__ == "__main__":
    code = run_checks(CHECKS, sys.argv[1:])
    if code:
        print(_run("journalctl", "--no-pager", "-u", "obdsup", "-n", "150"), flush=True)
    raise SystemExit(code)
