"""Disks of images: what debugfs adds to the base disk is what the tree holds."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from chaos.rig import image
from chaos.rig.problem import RigError
from chaos.rig.recipes import REDIS


def _tree(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def _debugfs(disk: Path, order: str) -> bytes:
    done = subprocess.run(["debugfs", "-R", order, disk], capture_output=True, check=True)
    return done.stdout


def test_directories_of_the_base_are_not_made_again(tmp_path: Path) -> None:
    base = _tree(tmp_path / "base", {"usr/bin/sh": b""})
    above = _tree(tmp_path / "above", {"usr/bin/tool": b"", "usr/lib/x.so": b""})
    orders = [order.split()[:2] for order in image.debugfs_commands(above, base)]
    assert ["mkdir", "/usr/lib"] in orders
    assert ["mkdir", "/usr/bin"] not in orders
    assert ["mkdir", "/usr"] not in orders


@pytest.mark.parametrize("name", ["two words", 'quo"te', "line\nbreak"])
def test_name_that_debugfs_would_misread_is_refused(tmp_path: Path, name: str) -> None:
    tree = _tree(tmp_path / "tree", {name: b""})
    with pytest.raises(RigError, match="file name"):
        list(image.debugfs_commands(tree, tmp_path))


@pytest.mark.integration
def test_added_tree_is_on_the_disk_beside_the_base(tmp_path: Path) -> None:
    base = _tree(tmp_path / "base", {"bin/busybox": b"base", "usr/bin/old": b"old"})
    above = _tree(tmp_path / "above", {"usr/bin/redis-check-rdb": b"redis" * 5000})
    (above / "usr/bin/redis-check-rdb").chmod(0o755)
    (above / "usr/bin/redis-server").symlink_to("redis-check-rdb")
    disk = tmp_path / "disk.raw"
    image._make_disk(disk, base)
    image._add_tree(disk, above, base, REDIS.proof)
    assert _debugfs(disk, "cat /bin/busybox") == b"base"
    assert _debugfs(disk, "cat /usr/bin/redis-check-rdb") == b"redis" * 5000
    assert b"0755" in _debugfs(disk, "stat /usr/bin/redis-check-rdb")
    assert b'Fast link dest: "redis-check-rdb"' in _debugfs(disk, "stat /usr/bin/redis-server")
    subprocess.run(["e2fsck", "-fn", disk], capture_output=True, check=True)


@pytest.mark.integration
def test_tree_that_lacks_redis_is_noticed(tmp_path: Path) -> None:
    base = _tree(tmp_path / "base", {"bin/busybox": b"base"})
    disk = tmp_path / "disk.raw"
    image._make_disk(disk, base)
    with pytest.raises(RigError, match="did not write usr/bin/redis-check-rdb"):
        image._add_tree(disk, _tree(tmp_path / "above", {"etc/x": b""}), base, REDIS.proof)
