"""Images of two layers, a busybox base and a program above it, made from Debian packages.

Built once under ``CACHE/KEY/`` (KEY: versions of the packages and of the recipe) without root
and without mounting: trees become ext4 disks by mke2fs and debugfs, disks become layers by
``obdsup image import``. The file ``complete`` is written last: a folder without it is rebuilt.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from chaos.rig import packages
from chaos.rig.problem import REPO, RigError, run, say, venv_program

__all__ = [
    "BASE_SIZE_BYTES",
    "CACHE",
    "LayeredImage",
    "Recipe",
    "build",
    "debugfs_commands",
    "find",
]

CACHE = REPO / "build" / "images"

BASE_SIZE_BYTES = 1 << 30
BASE = "busybox-static"
FRESH_S = 3600.0  # how long what was built is taken without asking apt for newer packages
FILESYSTEM_UUID = "6f626473-7570-4465-8d6f-000000000001"


@dataclass(frozen=True, slots=True)
class Recipe:
    """What the upper layer is made of. Patterns are globs below the unpacked packages.

    Attributes:
        revision: changes whenever the layers would come out differently.
        packages: Debian packages; ``with_libraries``: and the libraries they depend on.
        kept: files and folders that go into the layer; ``dropped``: taken out of it again.
        files: path in the layer -> text of small files of our own.
        folders: empty ones to make.
        proof: a file that must be on the disk in the end.
        probe: the largest file that matches is kept beside the image, to compare reads with.
    """

    name: str
    revision: str
    packages: tuple[str, ...]
    with_libraries: bool
    kept: tuple[str, ...]
    dropped: tuple[str, ...]
    files: Mapping[str, str]
    folders: tuple[str, ...]
    proof: str
    probe: str


@dataclass(frozen=True, slots=True)
class LayeredImage:
    """A finished image: its config, its layers, and one known file inside the rootfs."""

    config: Path
    layers: tuple[Path, ...]
    probe_inside: str  # path in the rootfs, without the leading slash
    probe_copy: Path  # the same bytes on the host


def build(cache: Path, recipe: Recipe) -> LayeredImage:
    """Returns the image, built in ``cache`` unless it is there.

    Raises:
        RigError: a package can not be had, or a tool refused.
    """
    built = find(cache, recipe)
    if built and time.time() - _complete(built).stat().st_mtime < FRESH_S:
        return built  # an answer of apt takes seconds, in an emulated guest a minute
    names = (BASE, *recipe.packages)
    versions = packages.candidate_versions(names)
    if built and not all(versions):
        return built  # no package lists here: what was built before is as good
    cache.mkdir(parents=True, exist_ok=True)
    key = hashlib.sha256("\n".join([recipe.revision, *names, *versions]).encode()).hexdigest()[:16]
    folder = cache / key
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another run may want the same image just now
        if not (folder / "complete").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            (folder / "name").write_text(f"{_mark(recipe)}\n")
            _build(folder, recipe)
            (folder / "complete").write_text("\n".join(versions) + "\n")
        (folder / "complete").touch()
    return _open(folder)


def find(cache: Path, recipe: Recipe) -> LayeredImage | None:
    """The newest image of this recipe that is in the cache already; None for none."""
    marks = {path: _name(path.parent) for path in cache.glob("*/complete")}
    complete = [path for path, mark in marks.items() if mark == _mark(recipe)]
    if not complete:
        return None
    return _open(max(complete, key=lambda path: path.stat().st_mtime).parent)


def _mark(recipe: Recipe) -> str:
    return f"{recipe.name} {recipe.revision}"


def _complete(built: LayeredImage) -> Path:
    return built.config.parent / "complete"


def _name(folder: Path) -> str:
    path = folder / "name"
    return path.read_text().strip() if path.is_file() else ""


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


def _open(folder: Path) -> LayeredImage:
    layers = (folder / "layer0.obd", folder / "layer1.obd")
    config = _write_config(folder / "config.v1.json", *layers)
    inside = (folder / "probe.path").read_text().strip()
    return LayeredImage(config, layers, inside, folder / "probe")


def _build(folder: Path, recipe: Recipe) -> None:
    say(f"image {recipe.name}: download {', '.join((BASE, *recipe.packages))}")
    fetch = packages.fetch if recipe.with_libraries else packages.download
    base_tree, tree = folder / "base", folder / "tree"
    _busybox_tree(packages.download([BASE], folder / "debs"), base_tree)
    packages.unpack(fetch(recipe.packages, folder / "debs"), folder / "unpacked")
    _recipe_tree(recipe, folder / "unpacked", tree)
    say(f"image {recipe.name}: lay out the disks of two layers")
    disk0, disk1 = folder / "disk0.raw", folder / "disk1.raw"
    _make_disk(disk0, base_tree)
    run(["cp", "--sparse=always", disk0, disk1], what="copy the base disk")
    _add_tree(disk1, tree, base_tree, recipe.proof)
    base_config = folder / "base.config.v1.json"
    say(f"image {recipe.name}: pack layer 0 (busybox)")
    _import(disk0, folder / "layer0.obd")
    _write_config(base_config, folder / "layer0.obd")
    say(f"image {recipe.name}: pack layer 1 ({recipe.name})")
    _import(disk1, folder / "layer1.obd", base_config)
    _keep_probe(recipe, tree, folder)
    for leftover in (disk0, disk1):
        leftover.unlink()
    for material in (base_tree, tree, folder / "unpacked", folder / "debs"):
        shutil.rmtree(material)


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


def _recipe_tree(recipe: Recipe, unpacked: Path, tree: Path) -> None:
    for pattern in recipe.kept:
        for path in unpacked.glob(pattern):
            target = tree / path.relative_to(unpacked)
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir() and not path.is_symlink():
                shutil.copytree(path, target, symlinks=True, dirs_exist_ok=True)
            else:
                shutil.copy2(path, target, follow_symlinks=False)
    for pattern in recipe.dropped:
        for path in list(tree.glob(pattern)):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for folder in recipe.folders:
        (tree / folder).mkdir(parents=True, exist_ok=True)
    for name, text in recipe.files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)


def _make_disk(disk: Path, tree: Path) -> None:
    with disk.open("wb") as file:
        file.truncate(BASE_SIZE_BYTES)
    # Nothing is left to be initialised in the background after the mount: no I/O but redis's own.
    extended = f"root_owner=0:0,hash_seed={FILESYSTEM_UUID},lazy_itable_init=0,nodiscard"
    command = ["mke2fs", "-q", "-F", "-t", "ext4", "-U", FILESYSTEM_UUID, "-L", "demo"]
    run([*command, "-E", extended, "-d", tree, disk], what="make the base file system")
    run(["e2fsck", "-fn", disk], what="check the base disk")


def _add_tree(disk: Path, tree: Path, base_tree: Path, proof: str) -> None:
    orders = "\n".join(debugfs_commands(tree, base_tree)) + "\n"
    run(["debugfs", "-w", "-f", "-", disk], stdin=orders, what="add the tree to the disk")
    run(["e2fsck", "-fn", disk], what="check the disk")
    inside = run(["debugfs", "-R", f"stat /{proof}", disk], what=f"look for {proof}")
    if "Type: regular" not in inside:
        raise RigError(f"debugfs did not write {proof} into {disk}")


def _import(disk: Path, layer: Path, base: Path | None = None) -> None:
    command = [venv_program("obdsup"), "image", "import", str(disk), "-o", str(layer)]
    options = ["--zfile", "lz4", *(["--base", str(base)] if base else [])]
    run([*command, *options], what=f"pack {layer.name}")


def _keep_probe(recipe: Recipe, tree: Path, folder: Path) -> None:
    candidates = [path for path in tree.glob(recipe.probe) if not path.is_symlink()]
    if not candidates:
        raise RigError(f"the layer {recipe.name} has no {recipe.probe} to read back")
    largest = max(candidates, key=lambda path: path.stat().st_size)
    (folder / "probe.path").write_text(str(largest.relative_to(tree)) + "\n")
    shutil.copyfile(largest, folder / "probe")


def _write_config(path: Path, *layers: Path) -> Path:
    lowers = [{"file": str(layer.resolve())} for layer in layers]
    path.write_text(json.dumps({"repoBlobUrl": "", "lowers": lowers}, indent=2) + "\n")
    return path
