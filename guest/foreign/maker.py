"""Makes TCMU devices by hand in configfs, as containerd's overlaybd snapshotter does."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

__all__ = ["HBA", "ForeignMaker"]

HBA = 999999999
_TARGET = Path("/sys/kernel/config/target")
_FOR_EVER_S = "2147483"
_ENABLE_TRIES, _ENABLE_PAUSE_S = 6000, 0.05  # the snapshotter's are 100: it is not emulated
_DISK_S = 30.0


class ForeignMaker:
    """One device, named after a snapshot. Every step is a plain file operation.

    With another ``subtype`` it is no device of overlaybd.
    """

    def __init__(
        self, number: int, config: Path, dev_id: str = "", subtype: str = "overlaybd"
    ) -> None:
        self.name = f"dev_{number}"
        self.config = f"{subtype}/{config}{f';{dev_id}' if dev_id else ''}"
        self.core = _TARGET / "core" / f"user_{HBA}" / self.name
        self._group = _TARGET / "loopback" / f"naa.199{number:013d}" / "tpgt_1"
        self._nexus = f"naa.199{number + 1_000_000:013d}"
        self.tried_again = 0

    def create(self, *options: str) -> None:
        """Up to ``enable``; repeats what is told to be tried again.

        Raises:
            OSError: what enabling it was refused with.
        """
        self.core.parent.mkdir(exist_ok=True)
        self.core.mkdir()
        for option in (f"dev_config={self.config}", "max_data_area_mb=4", *options):
            _write(self.core / "control", option)
        while True:
            try:
                _write(self.core / "enable", "1")
                break
            except OSError as error:
                self.tried_again += 1
                if error.errno != errno.EAGAIN or self.tried_again == _ENABLE_TRIES:
                    raise
                time.sleep(_ENABLE_PAUSE_S)
        _write(self.core / "attrib" / "cmd_time_out", _FOR_EVER_S)

    @property
    def is_enabled(self) -> bool:
        return (self.core / "enable").read_text().strip() == "1"

    def link(self) -> Path:
        """Shows the disk; returns its node."""
        _TARGET.joinpath("loopback").mkdir(exist_ok=True)
        self._group.parent.mkdir()
        self._group.mkdir()
        _write(self._group / "nexus", self._nexus)
        (self._group / "lun" / "lun_0").mkdir()
        (self._group / "lun" / "lun_0" / self.name).symlink_to(self.core)
        address = (self._group / "address").read_text().strip()
        device = Path(f"/sys/class/scsi_device/{address}:0/device")
        deadline = time.monotonic() + _DISK_S
        while True:
            for block in device.glob("block/*"):
                (block / "device" / "timeout").write_text(_FOR_EVER_S)
                node = Path("/dev") / block.name
                if _opens(node):
                    return node
            assert time.monotonic() < deadline, f"{device}: no disk"
            time.sleep(0.02)

    def unlink(self) -> None:
        """Takes the disk away; a worker must answer meanwhile."""
        if not self._group.is_dir():
            return
        lun = self._group / "lun" / "lun_0"
        (lun / self.name).unlink(missing_ok=True)
        for path in (lun, self._group, self._group.parent):
            path.rmdir()

    def remove(self) -> None:
        """Takes everything away."""
        self.unlink()
        if self.core.is_dir():
            self.core.rmdir()


def main(arguments: list[str]) -> int:
    """``python -m guest.foreign.maker remove NAME``: for who must not hang in the kernel."""
    verb, name = arguments
    assert verb == "remove", verb
    ForeignMaker(int(name.removeprefix("dev_")), Path()).remove()
    return 0


def _write(path: Path, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _opens(node: Path) -> bool:
    try:
        os.close(os.open(node, os.O_RDONLY | os.O_NONBLOCK))
    except OSError:
        return False
    return True


def make_ext4_layer(folder: Path, files: dict[str, bytes], size_bytes: int) -> tuple[Path, Path]:
    """A raw ext4 disk with files, and the same as a sealed layer: (disk, layer)."""
    content, disk, layer = folder / "content", folder / "disk", folder / "layer.obd"
    content.mkdir()
    for name, data in files.items():
        (content / name).write_bytes(data)
    disk.touch()
    os.truncate(disk, size_bytes)
    _run("mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-d", str(content), str(disk))
    _run(sys.executable, "-m", "obdsup.cli", "image", "import", str(disk), "-o", str(layer))
    return disk, layer


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
