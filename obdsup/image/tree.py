"""The files in an image: listed and read out of its ext4, without mounting anything."""

from __future__ import annotations

import hashlib
import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from obdsup.errors import ConfigError, FormatError
from obdsup.format.config import ImageConfig
from obdsup.image.native import ffi, lib, new_info
from obdsup.image.spec import check_image, image_spec

__all__ = ["Entry", "Tree"]

_READ_BYTES = 1 << 20
_MAX_DEPTH = 4096
_TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}


@dataclass(frozen=True)
class Entry:
    """One name: ``path`` from the image's root on, without a slash in front; bytes as on the disk.

    Attributes:
        mode: type and permissions, as ``st_mode``.
        target: of a symlink.
        device: (major, minor) of a device node.
    """

    path: bytes
    ino: int
    mode: int
    uid: int
    gid: int
    mtime_s: int
    mtime_ns: int
    size_bytes: int
    link_cnt: int
    target: bytes = b""
    device: tuple[int, int] | None = None
    xattrs: dict[str, bytes] = field(default_factory=dict)

    @property
    def type_name(self) -> str:
        """In words."""
        return _TYPES.get(stat.S_IFMT(self.mode), "unknown")

    @property
    def is_directory(self) -> bool:
        """Whether it can be listed."""
        return stat.S_ISDIR(self.mode)


class Tree:
    """The files of an image as it is when it is opened. Close it, or use it as a context."""

    def __init__(self, image: ImageConfig) -> None:
        """Opens the image and its file system.

        Raises:
            FormatError: no ext4 in it, or one that is damaged; a layer that is damaged.
            NativeError: a file can not be opened.
        """
        self.image = image
        self.image_path = image.path
        keep: list[Any] = []
        info, opened = new_info(), ffi.new("struct obd_tree **")
        code = lib.obd_tree_create(image_spec(image, keep), info, opened)
        self._check("open", code, info)
        self._tree = opened[0]

    def close(self) -> None:
        """Frees the image; again is fine."""
        if self._tree != ffi.NULL:
            lib.obd_tree_destroy(self._tree)
            self._tree = ffi.NULL

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _check(self, op: str, code: int, info: Any, path: bytes = b"") -> None:
        if code == lib.OBD_OK:
            return
        what = str(ffi.string(info.what).decode(errors="replace"))
        if code == lib.OBD_E_INVAL and path:
            name = "/" + os.fsdecode(path).lstrip("/")
            raise ConfigError(f"{self.image_path}: {name}: {what}", path=self.image_path, name=name)
        check_image(self.image, op, code, info)

    def find(self, path: bytes, *, follows_last: bool = True) -> Entry:
        """What a path names; symlinks on the way, and at the end, are resolved inside the image.

        Raises:
            ConfigError: there is nothing by that name.
        """
        info, ino = new_info(), ffi.new("uint32_t *")
        if b"\0" in path:
            raise ConfigError(f"{self.image_path}: {path!r}: not a path")
        code = lib.obd_tree_find(self._tree, path, follows_last, info, ino)
        self._check("look up", code, info, path)
        return self._entry(path.strip(b"/"), int(ino[0]))

    def _entry(self, path: bytes, ino: int) -> Entry:
        info, found = new_info(), ffi.new("struct obd_tree_stat *")
        self._check("look at", lib.obd_tree_stat(self._tree, ino, info, found), info, path)
        mode = int(found.mode)
        is_device = stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
        return Entry(
            path=path,
            ino=ino,
            mode=mode,
            uid=int(found.uid),
            gid=int(found.gid),
            mtime_s=int(found.mtime_s),
            mtime_ns=int(found.mtime_ns),
            size_bytes=int(found.size_bytes),
            link_cnt=int(found.link_cnt),
            target=self._bytes(lib.obd_tree_link, path, ino) if stat.S_ISLNK(mode) else b"",
            device=(int(found.device_major), int(found.device_minor)) if is_device else None,
            xattrs=self._xattrs(path, ino),
        )

    def _bytes(self, call: Any, path: bytes, ino: int) -> bytes:
        info, out = new_info(), ffi.new("struct obd_tree_bytes *")
        try:
            self._check("read", call(self._tree, ino, info, out), info, path)
            return bytes(ffi.buffer(out.bytes, out.length)) if out.length else b""
        finally:
            lib.obd_tree_free(out)

    def _xattrs(self, path: bytes, ino: int) -> dict[str, bytes]:
        raw = self._bytes(lib.obd_tree_xattrs, path, ino)
        parts: list[bytes] = []
        at = 0
        while at < len(raw):
            (length,) = struct.unpack_from("=I", raw, at)
            parts.append(raw[at + 4 : at + 4 + length])
            at += 4 + length
        names, values = parts[::2], parts[1::2]
        return dict(sorted(zip(map(os.fsdecode, names), values, strict=True)))

    def children(self, entry: Entry) -> list[Entry]:
        """The names in a directory, sorted as bytes.

        Raises:
            ConfigError: it is none.
        """
        raw = self._bytes(lib.obd_tree_list, entry.path or b"/", entry.ino)
        found: list[tuple[bytes, int]] = []
        at = 0
        while at < len(raw):
            ino, length = struct.unpack_from("=IB", raw, at)
            found.append((raw[at + 5 : at + 5 + length], ino))
            at += 5 + length
        base = entry.path + b"/" if entry.path else b""
        return [self._entry(base + name, ino) for name, ino in sorted(found)]

    def walk(self, top: Entry) -> Iterator[Entry]:
        """Everything below a directory, each directory in front of what is in it.

        Raises:
            FormatError: directories nested without an end (a damaged file system).
        """
        pending = self.children(top)[::-1]
        while pending:
            entry = pending.pop()
            yield entry
            if entry.is_directory:
                if entry.path.count(b"/") > _MAX_DEPTH:
                    raise FormatError(
                        self.image_path, 0, f"at most {_MAX_DEPTH} nested directories", "more"
                    )
                pending.extend(self.children(entry)[::-1])

    def read(self, entry: Entry) -> Iterator[bytes]:
        """A regular file's content in pieces.

        Raises:
            ConfigError: it is no regular file.
        """
        buffer, got = ffi.new("uint8_t[]", _READ_BYTES), ffi.new("size_t *")
        offset = 0
        while True:
            info = new_info()
            code = lib.obd_tree_read(self._tree, entry.ino, offset, buffer, _READ_BYTES, info, got)
            self._check("read", code, info, entry.path or b"/")
            if not got[0]:
                return
            yield bytes(ffi.buffer(buffer, got[0]))
            offset += int(got[0])

    def sha256(self, entry: Entry) -> str:
        """Digest of a regular file's content; errors as of ``read``."""
        digest = hashlib.sha256()
        for piece in self.read(entry):
            digest.update(piece)
        return digest.hexdigest()
