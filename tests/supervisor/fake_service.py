"""A supervisor process over fake workers and fake rings, in a directory of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from obdsup.errors import ControlError, StateError
from obdsup.state import tables
from obdsup.state.control import ControlClient
from obdsup.state.database import Database
from obdsup.state.process import identify
from tests.conftest import REPO, eventually

FAKE_WORKER = Path(__file__).with_name("fake_worker.py")


def is_alive(pid: int) -> bool:
    return identify(pid) is not None


class FakeService:
    """Starts and kills by pid only; ``close`` ends everything started under the root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.client = ControlClient(str(root / "run" / "obdsup.sock"), timeout_s=60)
        self.process: subprocess.Popen[bytes] | None = None
        self._log = (root / "log").open("ab")
        self.image("img")

    def log_to(self, fd: int) -> None:
        """Has supervisors started from now on log there."""
        self._log.close()
        self._log = os.fdopen(os.dup(fd), "ab", buffering=0)  # type: ignore[assignment]

    def image(self, name: str) -> Path:
        """An image in a folder of its own, where misbehaviour is planted."""
        folder = self.root / name
        folder.mkdir()
        (folder / "l0").write_bytes(b"layer")
        (folder / "config.v1.json").write_text(json.dumps({"lowers": [{"file": f"{folder}/l0"}]}))
        return folder

    def release(self, name: str) -> Path:
        """A release of another version, with the fake worker: a virtual environment of its own."""
        root = self.root / name
        package = root / "lib" / f"python3.{sys.version_info.minor}" / "site-packages" / "obdsup"
        package.mkdir(parents=True)
        (root / "bin").mkdir()
        (root / "bin" / "python").symlink_to(os.path.realpath(sys.executable))
        home = Path(sys.base_prefix) / "bin"
        (root / "pyvenv.cfg").write_text(f"home = {home}\ninclude-system-site-packages = false\n")
        real = str(REPO / "obdsup")
        (package / "__init__.py").write_text(f"__version__ = {name!r}\n__path__.append({real!r})\n")
        (package / "worker.py").write_text(
            f"import runpy\nrunpy.run_path({str(FAKE_WORKER)!r}, run_name='__main__')\n"
        )
        return root

    def spawn(self, *options: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [
                sys.executable, "-m", "tests.supervisor.fake_main",
                "--root", str(self.root), *options,
            ],
            cwd=REPO, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log,
            start_new_session=True,
        )  # fmt: skip

    def start(self, *options: str) -> None:
        self.process = self.spawn(*options)
        eventually(self._answers, 30)

    def _answers(self) -> bool:
        try:
            return bool(self.client.call("status")["pid"] == self.process.pid)  # type: ignore[union-attr]
        except ControlError:
            return False

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def create(self, name: str, image: str = "img", **fields: Any) -> dict[str, Any]:
        path = str(self.root / image / "config.v1.json")
        return dict(self.client.call("device.create", name=name, image=path, **fields))

    def show(self, name: str) -> dict[str, Any]:
        return dict(self.client.call("device.show", name=name))

    def worker_pid(self, name: str) -> int:
        return int(self.show(name)["worker"]["pid"])

    def reboot(self) -> None:
        """What a boot of the host leaves to a supervisor that was killed: the state directory."""
        assert self.process is not None
        assert self.process.poll() is not None
        self._end_all()
        for name in ("devices", "workers", "rings"):
            shutil.rmtree(self.root / "run" / name)
        database = Database(self.root / "state" / "state.db")
        database.commit(tables.put_meta({"boot_id": "00000000-0000-0000-0000-000000000000"}))
        database.close()

    def kill_worker(self, name: str) -> int:
        pid = self.worker_pid(name)
        os.kill(pid, signal.SIGKILL)
        return pid

    def online_with_other_worker(self, name: str, pid: int) -> dict[str, Any]:
        """Waits until the device is online under another worker."""

        def look() -> dict[str, Any] | None:
            shown = self.show(name)
            is_new = shown["worker"] is not None and shown["worker"]["pid"] != pid
            return shown if shown["phase"] == "online" and is_new else None

        found = eventually(look, 20)
        assert found is not None
        return found

    def wait_for_standby(self, count: int = 1) -> None:
        eventually(lambda: self.client.call("status")["standbys_ready"] >= count, 20)

    def remove(self, name: str) -> None:
        """Removes a device, once the operation that made it is over."""

        def is_removed() -> bool:
            try:
                self.client.call("device.remove", name=name)
            except StateError:
                return False
            return True

        eventually(is_removed, 20)

    def events(self, name: str = "") -> list[dict[str, Any]]:
        rows = self.client.call("events", since=0)
        return [row for row in rows if not name or row["event"] == name]

    def provider_calls(self) -> list[str]:
        path = self.rings() / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def rings(self) -> Path:
        return self.root / "run" / "rings"

    def log_text(self) -> str:
        return (self.root / "log").read_text()

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()
        self._end_all()
        self._log.close()

    def _end_all(self) -> None:
        """Every process started under the root."""
        for path in self.rings().glob("*.pid"):
            self._end(int(path.read_text()))
        mark = os.fsencode(str(self.root / "run"))
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    command = (entry / "cmdline").read_bytes()
                except OSError:
                    continue
                if mark in command:
                    self._end(int(entry.name))

    def _end(self, pid: int) -> None:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return
