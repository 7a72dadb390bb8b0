"""The load: random system calls on a tree, each noted in the model once it returned."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path

from chaos.workloads.metadata.comparison import (
    PREFIX,
    compare_directory,
    compare_node,
    compare_tree,
)
from chaos.workloads.metadata.model import Directory, File, Node, Symlink, Tree
from chaos.workloads.recorder import Recorder

__all__ = ["MetadataLoad"]

ROOT = "churn"
MAX_FILES = 400
MAX_DIRECTORIES = 60
MAX_DEPTH = 6
MAX_WRITE_BYTES = 48 * 1024
MAX_FILE_BYTES = 256 * 1024
CHECK_SHARE = 0.25


class MetadataLoad:
    """One tree below ``folder``; a quarter of the steps only look whether it is as it should be.

    After a call that failed it is not known what it left: the churn ends there, and what the call
    was about is left out of every later comparison.
    """

    def __init__(self, folder: Path, seed: int, recorder: Recorder) -> None:
        self._root = folder / ROOT
        self._tree = Tree()
        self._recorder = recorder
        self._random = random.Random(f"{seed}/metadata")
        self._next = 0
        self._uncertain: set[Path] = set()
        self._calls: list[tuple[Callable[[], None], int]] = [
            (self._create, 20),
            (self._append, 14),
            (self._overwrite, 10),
            (self._rename, 14),
            (self._unlink, 12),
            (self._link, 6),
            (self._symlink, 4),
            (self._mkdir, 6),
            (self._rmdir, 5),
            (self._truncate, 5),
            (self._chmod, 4),
            (self._attribute, 5),
            (self._tmpfile, 4),
        ]

    def step(self) -> None:
        if self._uncertain:
            time.sleep(0.1)
            return
        begun_ns = time.monotonic_ns()
        if not self._root.is_dir():
            self._root.mkdir()
        elif self._random.random() < CHECK_SHARE:
            self._check()
        else:
            calls, weights = zip(*self._calls, strict=True)
            self._random.choices(calls, weights)[0]()
        self._recorder.operation(begun_ns, time.monotonic_ns())

    def stop(self) -> None:
        """Nothing is under way between two calls."""

    def verify(self) -> None:
        for kind, line in compare_tree(self._root, self._tree.root):
            if not any(line.startswith(f"{path}") for path in self._uncertain):
                self._recorder.found(kind, line)

    def close(self) -> None:
        """Nothing is open between two calls."""

    def _check(self) -> None:
        directories = ["", *self._tree.paths(Directory)]
        path = self._random.choice(directories)
        directory = self._tree.directory(path)
        differences = list(compare_directory(self._root / path, directory))
        names = list(directory.entries)
        if names and not differences:
            name = self._random.choice(names)
            differences += compare_node(self._root / path / name, directory.entries[name])
        for kind, line in differences:
            self._recorder.found(kind, line)

    # Each call: choose, do, note. What it is about is uncertain between doing and noting.

    def _create(self) -> None:
        if len(self._tree.paths(File)) >= MAX_FILES:
            self._unlink()
            return
        path, data = self._new_name(), self._data()
        with self._doubt(path), (self._root / path).open("xb") as file:
            file.write(data)
            self._maybe_sync(file.fileno())
        self._tree.add(path, File(bytearray(data)))

    def _append(self) -> None:
        if path := self._any(File):
            node, data = self._file(path), self._data()
            if len(node.content) + len(data) > MAX_FILE_BYTES:
                self._truncate()
                return
            with self._doubt(path), (self._root / path).open("ab") as file:
                file.write(data)
                self._maybe_sync(file.fileno())
            node.content += data

    def _overwrite(self) -> None:
        if path := self._any(File):
            node, data = self._file(path), self._data()
            begin = self._random.randint(0, len(node.content))
            with self._doubt(path), (self._root / path).open("r+b") as file:
                file.seek(begin)
                file.write(data)
                self._maybe_sync(file.fileno())
            node.content[begin : begin + len(data)] = data

    def _truncate(self) -> None:
        if path := self._any(File):
            node = self._file(path)
            length = self._random.randint(0, min(MAX_FILE_BYTES, len(node.content) + 8192))
            with self._doubt(path):
                os.truncate(self._root / path, length)
            longer = length - len(node.content)
            node.content[length:] = bytes(max(0, longer))

    def _rename(self) -> None:
        kind: type[Node] = self._random.choice([File, File, File, Symlink, Directory])
        source = self._any(kind)
        if not source:
            return
        target = self._new_name()
        if kind is File and self._random.random() < 0.4:
            target = self._any(File) or target  # over another file
        if target == source or target.startswith(f"{source}/"):
            return
        if kind is Directory and self._has_directories(source):
            return  # or the tree would grow ever deeper
        with self._doubt(source, target):
            (self._root / source).rename(self._root / target)
        self._tree.rename(source, target)

    def _unlink(self) -> None:
        if path := self._any(self._random.choice([File, File, File, Symlink])):
            with self._doubt(path):
                (self._root / path).unlink()
            self._tree.remove(path)

    def _link(self) -> None:
        if path := self._any(File):
            name, node = self._new_name(), self._file(path)
            with self._doubt(name):
                os.link(self._root / path, self._root / name)
            self._tree.add(name, node)

    def _symlink(self) -> None:
        # Up to 60 bytes lie in the inode, longer ones in a block of their own.
        name = self._new_name()
        target = f"to/{self._next}".ljust(self._random.choice([20, 59, 60, 300]), "x")
        with self._doubt(name):
            (self._root / name).symlink_to(target)
        self._tree.add(name, Symlink(target))

    def _mkdir(self) -> None:
        if len(self._tree.paths(Directory)) >= MAX_DIRECTORIES:
            self._rmdir()
            return
        name = self._new_name()
        with self._doubt(name):
            (self._root / name).mkdir()
        self._tree.add(name, Directory())

    def _rmdir(self) -> None:
        paths = self._tree.paths(Directory)
        empty = [path for path in paths if not self._tree.directory(path).entries]
        if empty:
            path = self._random.choice(empty)
            with self._doubt(path):
                (self._root / path).rmdir()
            self._tree.remove(path)

    def _chmod(self) -> None:
        if path := self._any(File):
            mode = self._random.choice([0o600, 0o640, 0o644, 0o755])
            with self._doubt(path):
                (self._root / path).chmod(mode)
            self._file(path).mode = mode

    def _attribute(self) -> None:
        if path := self._any(File):
            node, name = self._file(path), f"k{self._random.randrange(4)}"
            # Some fit into the inode, some need a block.
            value = self._random.randbytes(self._random.choice([8, 40, 800]))
            with self._doubt(path):
                if name in node.attributes and self._random.random() < 0.4:
                    os.removexattr(self._root / path, PREFIX + name)
                    value = b""
                else:
                    os.setxattr(self._root / path, PREFIX + name, value)
            node.attributes.pop(name, None)
            if value:
                node.attributes[name] = value

    def _tmpfile(self) -> None:
        """A file without a name, which half of the time gets one."""
        data, name = self._data(), self._new_name()
        is_kept = self._random.random() < 0.5
        with self._doubt(name):
            fd = os.open(self._root, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o644)
            try:
                os.write(fd, data)
                if is_kept:
                    # Only with a directory given does Python follow the link in /proc.
                    os.link(f"/proc/self/fd/{fd}", self._root / name, src_dir_fd=fd)
            finally:
                os.close(fd)
        if is_kept:
            self._tree.add(name, File(bytearray(data)))

    def _maybe_sync(self, fd: int) -> None:
        """fsync, and out of the page cache: what is read of it later comes from the device."""
        if self._random.random() < 0.3:
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def _doubt(self, *paths: str) -> _Doubt:
        return _Doubt(self._uncertain, {self._root / path for path in paths})

    def _has_directories(self, path: str) -> bool:
        entries = self._tree.directory(path).entries.values()
        return any(isinstance(node, Directory) for node in entries)

    def _any(self, kind: type[Node]) -> str:
        paths = self._tree.paths(kind)
        return self._random.choice(paths) if paths else ""

    def _file(self, path: str) -> File:
        node = self._tree.node(path)
        assert isinstance(node, File)
        return node

    def _new_name(self) -> str:
        directories = ["", *self._tree.paths(Directory)]
        parent = self._random.choice([d for d in directories if d.count("/") < MAX_DEPTH])
        self._next += 1
        name = f"n{self._next}".ljust(self._random.choice([2, 2, 40, 200]), "_")
        return f"{parent}/{name}" if parent else name

    def _data(self) -> bytes:
        return self._random.randbytes(self._random.randint(1, MAX_WRITE_BYTES))


class _Doubt:
    """Names the paths of a call as uncertain until it has returned."""

    def __init__(self, uncertain: set[Path], paths: set[Path]) -> None:
        self._uncertain = uncertain
        self._paths = paths

    def __enter__(self) -> None:
        self._uncertain |= self._paths

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._uncertain -= self._paths
