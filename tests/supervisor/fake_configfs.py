"""A fake of what TCMU and tcm_loop do with configfs, sysfs and /dev, on a temporary tree.

``FakeConfigfs`` takes the place of ``Configfs``: it carries out the same operations on plain files
and then plays the kernel, whose objects come with attributes and whose attributes have effects.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from obdsup.errors import ProviderError
from obdsup.supervisor.provider.configfs import Configfs
from obdsup.supervisor.provider.kernel_files import KernelRoots


class FakeRoots(KernelRoots):
    """Plain files instead of device nodes, which need root."""

    def ensure_node(self, sysfs: Path, kind: int) -> Path:
        node = self.dev / sysfs.name
        node.touch()
        return node


class Interrupted(BaseException):
    """The supervisor died here."""


class FakeConfigfs(Configfs):
    """``deadline``: after so many changing operations the supervisor "dies" (None: never)."""

    def __init__(self, root: Path) -> None:
        super().__init__(1.0)
        self.roots = FakeRoots(root / "sys", root / "dev", root / "proc")
        self.deadline: int | None = None
        self.operations: list[str] = []
        for module in ("target_core_user", "tcm_loop", "sd_mod"):
            (self.roots.sys / "module" / module).mkdir(parents=True)
        target = self.roots.sys / "kernel" / "config" / "target"
        (target / "core").mkdir(parents=True)
        (self.roots.sys / "class" / "uio").mkdir(parents=True)
        self.roots.dev.mkdir()
        (self.roots.proc / "self").mkdir(parents=True)
        line = f"30 20 0:20 / {self.roots.sys}/kernel/config rw - configfs configfs rw\n"
        (self.roots.proc / "self" / "mountinfo").write_text(line)

    def _count(self, what: str) -> None:
        if self.deadline is not None and len(self.operations) >= self.deadline:
            raise Interrupted(what)
        self.operations.append(what)

    def make(self, path: Path) -> None:
        if path.is_dir():
            return
        self._count(f"mkdir {path.name}")
        super().make(path)
        attributes: dict[str, str] = {}
        if path.parent.parent.name == "core":
            attributes = {"control": "", "enable": "0", "attrib/cmd_time_out": "30"}
            attributes |= {"attrib/dev_size": "0", "wwn/vpd_unit_serial": "T10 VPD Serial: "}
            attributes |= {"action/block_dev": "unblocked", "action/reset_ring": ""}
        elif path.name == "tpgt_1":
            attributes = {"nexus": "", "address": "3:0:1", "lun/.keep": ""}
        for name, value in attributes.items():
            (path / name).parent.mkdir(exist_ok=True)
            (path / name).write_text(value)

    def write(self, path: Path, value: str) -> None:
        self._count(f"write {path.name}")
        if not path.exists():
            raise ProviderError(f"write {value!r} to {path}: No such file or directory")
        target = self.roots.sys / "kernel" / "config" / "target"
        if path.name == "cmd_time_out" and list(target.glob("loopback/*/*/lun/*/*")):
            raise ProviderError(f"write {path}: a LUN is linked: Invalid argument")
        words = {"block_dev": {"1": "blocked", "0": "unblocked"}}
        path.write_text(words.get(path.name, {}).get(value, value))

    def write_bounded(self, path: Path, value: str, is_done: Callable[[], bool]) -> None:
        self.write(path, value)
        device = path.parent
        options = dict(p.split("=", 1) for p in (device / "control").read_text().split(","))
        uio = self.roots.sys / "class" / "uio" / "uio0"
        (uio / "maps" / "map0").mkdir(parents=True)
        hba = device.parent.name.removeprefix("user_")
        (uio / "name").write_text(f"tcm-user/{hba}/{device.name}/{options['dev_config']}\n")
        (uio / "maps" / "map0" / "size").write_text("0x4100000\n")
        (device / "attrib" / "dev_size").write_text(options["dev_size"])

    def link(self, path: Path, target: Path) -> None:
        if path.is_symlink():
            return
        self._count("link")
        path.symlink_to(target)
        block = self.roots.sys / "class/scsi_device/3:0:1:0/device/block/sdx"
        (block / "device").mkdir(parents=True)
        (block / "dev").write_text("8:368\n")
        size = int((target / "attrib" / "dev_size").read_text())
        for name, value in {"size": str(size // 512), "ro": "0"}.items():
            (block / name).write_text(value)
        for name in ("timeout", "eh_timeout"):
            (block / "device" / name).write_text("30")

    def unlink(self, path: Path) -> None:
        if not path.is_symlink():
            return
        self._count("unlink")
        path.unlink()
        _delete(self.roots.sys / "class" / "scsi_device")

    def remove(self, path: Path) -> None:
        if not path.is_dir():
            return
        self._count(f"rmdir {path.name}")
        children = [child for child in path.iterdir() if child.is_dir() and not _is_ours(child)]
        if any(child.is_symlink() for child in path.iterdir()) or children:
            raise ProviderError(f"rmdir {path}: Directory not empty")
        _delete(path)
        if path.parent.name.startswith("user_"):
            _delete(self.roots.sys / "class" / "uio" / "uio0")

    def flush(self, node: Path) -> None:
        self._count("flush")


def _is_ours(path: Path) -> bool:
    """Default groups, which configfs removes with their parent unless something is in them."""
    if path.name == "lun":
        return not any(re.match("lun_", child.name) for child in path.iterdir())
    return path.name in ("attrib", "wwn", "action")


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        for child in path.iterdir():
            _delete(child)
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
