"""The demo's image: a busybox base layer and a redis layer above it, made from Debian packages.

Built once under ``build/demo/KEY/`` (KEY: versions of the packages and of this recipe) without root
and without mounting: trees become ext4 disks by mke2fs and debugfs, disks become layers by
``obdsup image import``. The file ``complete`` is written last: a folder without it is rebuilt.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from chaos.rig import packages
from chaos.rig.problem import RigError, run, say, venv_program

__all__ = ["BASE_SIZE_BYTES", "DemoImage", "build", "debugfs_commands"]

BASE_SIZE_BYTES = 1 << 30
RECIPE = "1"  # changes whenever the files below would come out differently
PACKAGES = ("busybox-static", "redis-server", "redis-tools")
FILESYSTEM_UUID = "6f626473-7570-4465-8d6f-000000000001"
REDIS_FOLDERS = ("lib", "lib64", "usr/lib")
REDIS_PROGRAMS = ("redis-server", "redis-check-rdb", "redis-check-aof", "redis-cli")
REDIS_CONF = """\
# Every acknowledged write is on the device: that is what the demo checks.
port 0
unixsocket /run/redis.sock
unixsocketperm 700
dir /data
appendonly yes
appendfsync always
no-appendfsync-on-rewrite no
save ""
daemonize no
pidfile ""
"""


@dataclass(frozen=True, slots=True)
class DemoImage:
    """A finished image: its config, its layers, and one known file inside the rootfs."""

    config: Path
    layers: tuple[Path, ...]
    probe_inside: str  # path in the rootfs, without the leading slash
    probe_copy: Path  # the same bytes on the host


def build(cache: Path) -> DemoImage:
    """Returns the image, built in ``cache`` unless it is there.

    Raises:
        RigError: a package can not be had, or a tool refused.
    """
    versions = [packages.candidate_version(name) for name in PACKAGES]
    if not all(versions):
        found = sorted(cache.glob("*/complete"), key=lambda path: path.stat().st_mtime)
        if found:  # no package lists here: what was built before is as good
            return _open(found[-1].parent)
    key = hashlib.sha256("\n".join([RECIPE, *PACKAGES, *versions]).encode()).hexdigest()[:16]
    folder = cache / key
    if not (folder / "complete").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _build(folder)
        (folder / "complete").write_text("\n".join(versions) + "\n")
    return _open(folder)


def debugfs_commands(tree: Path, skip: Path) -> Iterator[str]:
    """The debugfs orders that add a tree to a disk; directories that ``skip`` has are there."""
    for path in sorted(tree.rglob("*")):
        inside = "/" + str(path.relative_to(tree))
        mode = path.lstat().st_mode
        if any(character in inside for character in '" \n'):
            raise RigError(f"a file name debugfs would not understand: {inside!r}")
        if stat.S_ISLNK(mode):
            yield f"symlink {inside} {os.readlink(path)}"
        elif stat.S_ISDIR(mode):
            if not (skip / path.relative_to(tree)).is_dir():
                yield f"mkdir {inside}"
                yield f"sif {inside} mode 0{mode:o}"
        elif stat.S_ISREG(mode):
            yield f"write {path} {inside}"
            yield f"sif {inside} mode 0{mode:o}"
            yield f"sif {inside} uid 0"
            yield f"sif {inside} gid 0"


def _open(folder: Path) -> DemoImage:
    layers = (folder / "layer0.obd", folder / "layer1.obd")
    config = _write_config(folder / "config.v1.json", *layers)
    inside = (folder / "probe.path").read_text().strip()
    return DemoImage(config, layers, inside, folder / "probe")


def _build(folder: Path) -> None:
    say(f"image: download {', '.join(PACKAGES)} and their libraries")
    debs = packages.fetch(PACKAGES, folder / "debs")
    base = [deb for deb in debs if deb.name.startswith("busybox-static_")]
    base_tree, redis_tree = folder / "base", folder / "redis"
    _busybox_tree(base, base_tree)
    _redis_tree([deb for deb in debs if deb not in base], folder / "unpacked", redis_tree)
    say("image: lay out the disks of two layers")
    disk0, disk1 = folder / "disk0.raw", folder / "disk1.raw"
    _make_disk(disk0, base_tree)
    run(["cp", "--sparse=always", disk0, disk1], what="copy the base disk")
    _add_tree(disk1, redis_tree, base_tree)
    base_config = folder / "base.config.v1.json"
    say("image: pack layer 0 (busybox)")
    _import(disk0, folder / "layer0.obd")
    _write_config(base_config, folder / "layer0.obd")
    say("image: pack layer 1 (redis)")
    _import(disk1, folder / "layer1.obd", base_config)
    _keep_probe(redis_tree, folder)
    for leftover in (disk0, disk1):
        leftover.unlink()
    for tree in (base_tree, redis_tree, folder / "unpacked", folder / "debs"):
        shutil.rmtree(tree)


def _busybox_tree(debs: list[Path], tree: Path) -> None:
    packages.unpack(debs, tree)
    shutil.rmtree(tree / "usr" / "share")
    for name in ("bin", "sbin", "usr/bin", "usr/sbin", "etc", "proc", "sys", "dev", "run", "root"):
        (tree / name).mkdir(parents=True, exist_ok=True)
    for applet in run([tree / "bin/busybox", "--list-full"], what="list applets").split():
        link = tree / applet
        if not link.exists() and link.parent.is_dir():
            link.symlink_to("/bin/busybox")
    (tree / "tmp").mkdir()
    (tree / "tmp").chmod(0o1777)
    (tree / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (tree / "etc/group").write_text("root:x:0:\n")


def _redis_tree(debs: list[Path], unpacked: Path, tree: Path) -> None:
    packages.unpack(debs, unpacked)
    for name in REDIS_FOLDERS:
        if (unpacked / name).is_dir():
            shutil.copytree(unpacked / name, tree / name, symlinks=True)
    for unwanted in ("lib/systemd", "usr/lib/systemd", "usr/lib/tmpfiles.d", "usr/lib/sysusers.d"):
        shutil.rmtree(tree / unwanted, ignore_errors=True)
    for gconv in tree.glob("usr/lib/*/gconv"):
        shutil.rmtree(gconv)
    (tree / "usr/bin").mkdir(parents=True)
    for program in REDIS_PROGRAMS:
        shutil.copy2(unpacked / "usr/bin" / program, tree / "usr/bin", follow_symlinks=False)
    (tree / "etc").mkdir()
    (tree / "etc/redis.conf").write_text(REDIS_CONF)
    (tree / "data").mkdir()


def _make_disk(disk: Path, tree: Path) -> None:
    with disk.open("wb") as file:
        file.truncate(BASE_SIZE_BYTES)
    # Nothing is left to be initialised in the background after the mount: no I/O but redis's own.
    extended = f"root_owner=0:0,hash_seed={FILESYSTEM_UUID},lazy_itable_init=0,nodiscard"
    command = ["mke2fs", "-q", "-F", "-t", "ext4", "-U", FILESYSTEM_UUID, "-L", "demo"]
    run([*command, "-E", extended, "-d", tree, disk], what="make the base file system")
    run(["e2fsck", "-fn", disk], what="check the base disk")


def _add_tree(disk: Path, tree: Path, base_tree: Path) -> None:
    orders = "\n".join(debugfs_commands(tree, base_tree)) + "\n"
    run(["debugfs", "-w", "-f", "-", disk], stdin=orders, what="add redis to the disk")
    run(["e2fsck", "-fn", disk], what="check the redis disk")
    inside = run(["debugfs", "-R", "stat /usr/bin/redis-check-rdb", disk], what="look for redis")
    if "Type: regular" not in inside:
        raise RigError(f"debugfs did not write redis into {disk}")


def _import(disk: Path, layer: Path, base: Path | None = None) -> None:
    command = [venv_program("obdsup"), "image", "import", str(disk), "-o", str(layer)]
    options = ["--zfile", "lz4", *(["--base", str(base)] if base else [])]
    run([*command, *options], what=f"pack {layer.name}")


def _keep_probe(tree: Path, folder: Path) -> None:
    candidates = sorted(tree.rglob("libcrypto.so.*"), key=lambda path: -path.stat().st_size)
    if not candidates:
        raise RigError("the redis layer has no libcrypto to read back")
    (folder / "probe.path").write_text(str(candidates[0].relative_to(tree)) + "\n")
    shutil.copyfile(candidates[0], folder / "probe")


def _write_config(path: Path, *layers: Path) -> Path:
    lowers = [{"file": str(layer.resolve())} for layer in layers]
    path.write_text(json.dumps({"repoBlobUrl": "", "lowers": lowers}, indent=2) + "\n")
    return path
