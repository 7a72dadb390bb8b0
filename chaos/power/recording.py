"""One recording, in the guest: writable layers and state on a logged disk, loads, kills.

``python -m chaos.power.recording --file-system ext4 --seed 1`` writes FILE_SYSTEM.log and
FILE_SYSTEM.json into the folder the environment names as GUEST_RESULT.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from chaos.power.disk_load import DiskLoad
from chaos.power.file_load import FileLoad
from chaos.power.ledger import Ledger
from chaos.power.logged_disk import LoggedDisk
from chaos.rig import hooked
from chaos.rig.counters import DeviceJournal
from chaos.rig.kills import Killer, Kind
from chaos.rig.mount import Mount
from chaos.rig.node import Node, wait_until
from chaos.rig.problem import RigError, run, say

__all__ = ["DISK_BYTES", "FILES_BYTES", "Recording"]

DISK_BYTES = 8 << 20
FILES_BYTES = 16 << 20
PATIENCE_S = 300.0
KILL_PAUSE_S = (0.5, 2.0)
_SIZES_BYTES = {"ext4": 96 << 20, "xfs": 320 << 20}
_DEVICES = {"disk": DISK_BYTES, "files": FILES_BYTES}


class Recording:
    """Puts everything up, records, takes everything down.

    Args:
        operations: changes of the raw device per thread, at most.
        kills: worker kills while they run.
        planted: a fault in a build with test hooks, or "".
    """

    def __init__(
        self, file_system: str, seed: int, operations: int, kills: int, planted: str
    ) -> None:
        self._planted = planted
        self._ledger = Ledger(file_system, seed)
        self._operations = operations
        self._kills = kills
        self._chance = random.Random(f"{seed}/kills")
        self._node: Node
        self._disk: LoggedDisk

    def run(self, result: Path) -> None:
        """Raises RigError when it could not be carried through, or an operation failed."""
        name = self._ledger.file_system
        run_dir = Path(tempfile.mkdtemp(prefix="obdsup-power-", dir="/run"))
        self._disk = LoggedDisk("power", name, _SIZES_BYTES[name], Path("/tmp/power"))
        self._write_back_at_once()
        for path in ("state", "layers"):
            (self._disk.folder / path).mkdir()
        state_dir = self._disk.folder / "state"
        if self._planted:
            self._node = Node(
                run_dir, state_dir, "tcmu", PATIENCE_S,
                python_path=hooked.FOLDER, environment={"OBDSUP_PLANTED": self._planted},
            )  # fmt: skip
        else:
            self._node = Node(run_dir, state_dir, "tcmu", PATIENCE_S)
        with ExitStack() as stack:
            stack.callback(self._node.clean_up)
            begun_s = time.monotonic()
            self._record(stack)
            self._ledger.seconds = time.monotonic() - begun_s
        say(f"{name}: copy the log")
        self._disk.finish(result / f"{name}.log")
        self._ledger.save(result / f"{name}.json")

    @staticmethod
    def _write_back_at_once() -> None:
        """Pages go to the disk by themselves between flushes, as on a machine that runs long."""
        for name, value in (("dirty_writeback_centisecs", 10), ("dirty_expire_centisecs", 10)):
            Path("/proc/sys/vm", name).write_text(str(value))

    def _record(self, stack: ExitStack) -> None:
        say(f"{self._ledger.file_system}: supervisor and devices")
        for name, size in _DEVICES.items():
            self._make_image(name, size)
        self._make_image("extra", FILES_BYTES)
        run(["sync", "-f", str(self._disk.folder)], what="sync the new images")
        self._node.start_supervisor()
        wait_until(self._node.is_answering, PATIENCE_S, "an answer of the supervisor")
        self._disk.mark("begin")
        nodes = {}
        for name in _DEVICES:
            stack.callback(self._node.remove_device, name)
            nodes[name] = self._create(name)
        run(["mkfs.ext4", "-q", "-J", "size=4", nodes["files"]], what="mkfs of the inner ext4")
        mount = Mount(nodes["files"], self._node.run_dir / "files")
        stack.callback(mount.unmount)
        mount.mount()
        run(["sync", "-f", str(mount.folder)], what="sync the inner ext4")
        files = FileLoad(mount.folder, self._ledger.seed, self._disk.mark)
        disk = DiskLoad(nodes["disk"], self._operations, self._ledger.seed, self._disk.mark)
        self._load(disk, files)
        self._disk.mark("end")  # what follows is taking down
        self._ledger.changes = sorted(disk.changes, key=lambda change: change.version)
        self._ledger.completed = disk.completed
        errors = disk.errors + files.errors
        if errors:
            raise RigError(f"operations failed: {'; '.join(errors)}; {self._node.log_end()}")

    def _load(self, disk: DiskLoad, files: FileLoad) -> None:
        say(f"{self._ledger.file_system}: load")
        disk.start()
        files.start()
        try:
            killer = Killer(
                self._node, DeviceJournal(self._node.run_dir, "disk").read, wait_until, PATIENCE_S
            )
            self._create("extra")
            for _ in range(self._kills):
                killer.wait_ready()
                time.sleep(self._chance.uniform(*KILL_PAUSE_S))
                landed = killer.kill(Kind.WORKER)
                self._ledger.worker_kills += 1
                self._ledger.kills_in_flight += landed.hit_in_flight
                say(f"  worker killed, recovered {landed.recovered + landed.already_done}")
            self._disk.mark("going extra")
            self._node.obdsup("device", "remove", "extra")
            self._disk.mark("gone extra")
        finally:
            disk.stop()
            files.stop()

    def _create(self, name: str) -> str:
        self._disk.mark(f"making {name}")
        config = self._disk.folder / "layers" / f"{name}.json"
        self._node.obdsup("device", "create", name, "--image", str(config), "--writable")
        self._disk.mark(f"made {name}")
        return str(self._node.obdsup("device", "show", name)["block_device"])

    def _make_image(self, name: str, size_bytes: int) -> None:
        folder = self._disk.folder / "layers"
        data, index = folder / f"{name}.data", folder / f"{name}.index"
        self._node.obdsup("image", "new-upper", "--size", str(size_bytes), str(data), str(index))
        upper = {"data": str(data), "index": str(index)}
        config = {"repoBlobUrl": "", "lowers": [], "upper": upper}
        (folder / f"{name}.json").write_text(json.dumps(config))


def main() -> int:
    """Records what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m chaos.power.recording", description=__doc__)
    parser.add_argument("--file-system", action="append", choices=sorted(_SIZES_BYTES))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--operations", type=int, default=800, help="per thread")
    parser.add_argument("--kills", type=int, default=8)
    parser.add_argument("--planted", default="", help="a fault, in a build with test hooks")
    options = parser.parse_args()
    for name in options.file_system or ["ext4"]:
        recording = Recording(
            name, options.seed, options.operations, options.kills, options.planted
        )
        recording.run(Path(os.environ["GUEST_RESULT"]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
