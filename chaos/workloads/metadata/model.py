"""The tree as it must be: what every call that returned has made of it (pure).

Files are inodes that several names may point to; directories hold names. Paths are relative to the
root of the tree, which is ``""``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Directory", "File", "Node", "Symlink", "Tree"]


@dataclass(slots=True, eq=False)
class File:
    """One inode; ``content`` is all of it."""

    content: bytearray = field(default_factory=bytearray)
    mode: int = 0o644
    attributes: dict[str, bytes] = field(default_factory=dict)
    link_cnt: int = 0


@dataclass(slots=True, eq=False)
class Symlink:
    target: str


@dataclass(slots=True, eq=False)
class Directory:
    entries: dict[str, Node] = field(default_factory=dict)


Node = File | Symlink | Directory


class Tree:
    """The whole tree; each method is one system call that succeeded."""

    def __init__(self) -> None:
        self.root = Directory()

    def directory(self, path: str) -> Directory:
        """The directory of this path."""
        node: Node = self.root
        for name in path.split("/") if path else []:
            assert isinstance(node, Directory)
            node = node.entries[name]
        assert isinstance(node, Directory)
        return node

    def node(self, path: str) -> Node:
        """What has this path."""
        parent, name = _split(path)
        return self.directory(parent).entries[name]

    def add(self, path: str, node: Node) -> None:
        """create, mkdir, symlink, link: a new name."""
        parent, name = _split(path)
        self.directory(parent).entries[name] = node
        if isinstance(node, File):
            node.link_cnt += 1

    def remove(self, path: str) -> None:
        """unlink, rmdir."""
        parent, name = _split(path)
        node = self.directory(parent).entries.pop(name)
        if isinstance(node, File):
            node.link_cnt -= 1

    def rename(self, source: str, target: str) -> None:
        """rename; what had the target's name loses it. Two names of one file: nothing happens."""
        node = self.node(source)
        parent, name = _split(target)
        old = self.directory(parent).entries.get(name)
        if old is node:
            return
        if old is not None:
            self.remove(target)
        self.add(target, node)
        self.remove(source)

    def paths(self, kind: type[Node]) -> list[str]:
        """The paths of all nodes of a kind, in an order that only depends on their history."""
        found, todo = [], [("", self.root)]
        while todo:
            prefix, directory = todo.pop()
            for name, node in directory.entries.items():
                path = f"{prefix}/{name}" if prefix else name
                if isinstance(node, kind):
                    found.append(path)
                if isinstance(node, Directory):
                    todo.append((path, node))
        return found


def _split(path: str) -> tuple[str, str]:
    parent, _, name = path.rpartition("/")
    return parent, name
