"""Images to apply tars to, tars made in memory, and what the file system then holds."""

from __future__ import annotations

import io
import json
import os
import stat
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

from obdsup.format import config
from obdsup.format.config import ImageConfig
from obdsup.format.image import Image
from obdsup.format.upper_writer import create_upper
from obdsup.image.tree import Entry, Tree

MTIME_S = 1_700_000_000

# Adds entries to a tar; see ``member``.
Member = Callable[[tarfile.TarFile], None]


def new_image(
    folder: Path, size_bytes: int = 64 << 20, lowers: tuple[str, ...] = (), sparse: bool = False
) -> ImageConfig:
    """An image with an empty writable layer above ``lowers``."""
    data, index = folder / "upper.data", folder / "upper.index"
    create_upper(str(data), str(index), size_bytes, is_sparse=sparse)
    path = folder / "config.v1.json"
    path.write_text(
        json.dumps(
            {
                "lowers": [{"file": lower} for lower in lowers],
                "upper": {"data": str(data), "index": str(index)},
            }
        )
    )
    return config.load(str(path))


def member(
    name: str,
    content: bytes = b"",
    kind: bytes = tarfile.REGTYPE,
    mode: int = 0o644,
    pax: dict[str, str] | None = None,
    **fields: object,
) -> Member:
    """One entry; ``fields`` are of ``tarfile.TarInfo``."""
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.mtime, info.size = kind, mode, MTIME_S, len(content)
    info.pax_headers = pax or {}
    for field, value in fields.items():
        setattr(info, field, value)
    return lambda tar: tar.addfile(info, io.BytesIO(content) if info.isreg() else None)


def directory(name: str, mode: int = 0o755, **fields: object) -> Member:
    return member(name, kind=tarfile.DIRTYPE, mode=mode, **fields)


def symlink(name: str, target: str) -> Member:
    return member(name, kind=tarfile.SYMTYPE, linkname=target)


def hard_link(name: str, target: str, mode: int = 0o644) -> Member:
    return member(name, kind=tarfile.LNKTYPE, linkname=target, mode=mode)


def write_tar(
    path: Path, *members: Member, compression: str = "", format_: int = tarfile.PAX_FORMAT
) -> str:
    """A tar of these entries; ``compression`` as of ``tarfile.open``."""
    with tarfile.open(str(path), f"w:{compression}", format=format_) as tar:  # type: ignore[call-overload]
        for one in members:
            one(tar)
    return str(path)


def tree_of(image: ImageConfig) -> dict[str, Entry]:
    """Every name in the image but lost+found."""
    with Tree(image) as tree:
        found = {os.fsdecode(e.path): e for e in tree.walk(tree.find(b"/"))}
    found.pop("lost+found", None)
    return found


def content(image: ImageConfig, path: str) -> bytes:
    with Tree(image) as tree:
        return b"".join(tree.read(tree.find(os.fsencode(path))))


def export(image: ImageConfig, disk: Path) -> Path:
    """The whole virtual disk as a sparse file, read by the reference in Python."""
    with Image(image) as opened, disk.open("wb") as file:
        file.truncate(opened.size_bytes)
        for offset, data in opened.stack.chunks():
            file.seek(offset)
            file.write(data)
    return disk


def check_clean(image: ImageConfig, folder: Path) -> None:
    """``e2fsck`` finds nothing to mend."""
    disk = export(image, folder / "fsck.disk")
    done = subprocess.run(
        ["e2fsck", "-fn", str(disk)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout
    disk.unlink()


def line_of(entry: Entry, digest: str) -> str:
    """An entry as the reference's lists of trees have it."""
    if stat.S_ISREG(entry.mode):
        what = f"{entry.size_bytes} {digest} nlink={entry.link_cnt}"
    elif entry.device is not None:
        what = "{}:{}".format(*entry.device)
    else:
        what = os.fsdecode(entry.target)
    name = os.fsdecode(entry.path) if entry.path.isascii() else entry.path.hex()
    xattrs = " ".join(f"{name}={value.hex()}" for name, value in entry.xattrs.items())
    return f"{name} {entry.mode:o} {entry.uid}:{entry.gid} {entry.mtime_s} {what} {xattrs}"


def lines_of(image: ImageConfig) -> list[str]:
    with Tree(image) as tree:
        return sorted(
            line_of(entry, tree.sha256(entry) if stat.S_ISREG(entry.mode) else "")
            for entry in tree.walk(tree.find(b"/"))
            if not entry.path.startswith(b"lost+found")
        )
