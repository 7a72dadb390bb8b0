"""A device of a fault's own, with content known block by block: what may break breaks here.

Every block is random, so a layer holds it as it is (LZ4 keeps what does not compress word by word)
and its place in the layer file is found by searching: nothing here knows the file formats.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import random
import re
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from chaos.rig.counters import DeviceJournal
from chaos.rig.node import Node
from chaos.rig.problem import RigError

__all__ = ["BLOCK_BYTES", "MEDIUM_ERRNOS", "SPACE_ERRNOS", "Victim", "VictimLayer"]

BLOCK_BYTES = 4096
EDGE_BYTES = 64  # of a block, not looked for: a codec's own bytes may lie there
# A SCSI disk turns MEDIUM ERROR into ENODATA, a file under a loop device into EIO.
MEDIUM_ERRNOS = frozenset({errno.EIO, errno.ENODATA})
SPACE_ERRNOS = frozenset({errno.EIO, errno.ENOSPC})


@dataclass(frozen=True, slots=True)
class VictimLayer:
    """A sealed layer and the disk it was made from."""

    path: Path
    blocks: tuple[bytes, ...]

    @classmethod
    def make(
        cls, node: Node, folder: Path, chance: random.Random, *, block_cnt: int = 64,
        is_compressed: bool = True,
    ) -> VictimLayer:  # fmt: skip
        """Imports a random disk into ``folder/layer.obd``.

        Raises:
            RigError: the import failed.
        """
        folder.mkdir(parents=True, exist_ok=True)
        blocks = tuple(chance.randbytes(BLOCK_BYTES) for _ in range(block_cnt))
        disk, layer = folder / "disk.raw", folder / "layer.obd"
        disk.write_bytes(b"".join(blocks))
        options = ["--zfile", "lz4"] if is_compressed else []
        node.obdsup("image", "import", str(disk), "-o", str(layer), "--force", *options)
        disk.unlink()
        return cls(layer, blocks)

    def place(self, number: int) -> tuple[int, int]:
        """Bytes [begin, end) of the layer file that hold the middle of a block.

        Raises:
            RigError: they are not there, or not once.
        """
        content = self.path.read_bytes()
        middle = self.blocks[number][EDGE_BYTES:-EDGE_BYTES]
        if content.count(middle) != 1:
            raise RigError(f"{self.path} holds block {number} {content.count(middle)} times, not 1")
        begin = content.index(middle)
        return begin, begin + len(middle)


class Victim:
    """One device on the node under test; a context manager that creates and removes it.

    Args:
        name: of the device.
        folder: where its config is written.
        lowers: bottom to top.
        upper: data and index of a writable layer that exists, or None for a read-only device.
    """

    def __init__(
        self,
        node: Node,
        name: str,
        folder: Path,
        lowers: tuple[Path, ...],
        upper: tuple[Path, Path] | None = None,
    ) -> None:
        self.name = name
        self.journal = DeviceJournal(node.run_dir, name)
        self.block_device = Path()
        self._node = node
        self._upper = upper
        self._config = folder / f"{name}.config.v1.json"
        self._lowers = lowers

    def __enter__(self) -> Self:
        """Creates the device and looks up its block device.

        Raises:
            RigError: the command failed, or the provider gives no block device.
        """
        config: dict[str, object] = {"lowers": [{"file": str(path)} for path in self._lowers]}
        writable: list[str] = []
        if self._upper is not None:
            data, index = self._upper
            config["upper"] = {"data": str(data), "index": str(index)}
            writable = ["--writable"]
        self._config.write_text(json.dumps(config))
        self._node.remove_device(self.name)  # left by a run that was killed
        row = self._node.obdsup(
            "device", "create", self.name, "--image", str(self._config), *writable
        )
        if not row.get("block_device"):
            self._node.remove_device(self.name)
            raise RigError(f"device {self.name} has no block device with {self._node.provider}")
        self.block_device = Path(row["block_device"])
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._node.remove_device(self.name)

    def read(self, number: int, block_bytes: int = BLOCK_BYTES) -> bytes | int:
        """Block ``number`` past every cache, or the errno it failed with."""
        with self._open(os.O_RDONLY) as disk, mmap.mmap(-1, block_bytes) as buffer:
            try:
                read = os.preadv(disk.fd, [buffer], number * block_bytes)
            except OSError as refusal:
                return refusal.errno or errno.EIO
            return buffer[:read]

    def write(self, number: int, content: bytes) -> int:
        """Writes block ``number`` past every cache; the errno, 0 when it was acknowledged."""
        with self._open(os.O_RDWR) as disk, mmap.mmap(-1, len(content)) as buffer:
            buffer.write(content)
            try:
                written = os.pwritev(disk.fd, [buffer], number * len(content))
            except OSError as refusal:
                return refusal.errno or errno.EIO
            return 0 if written == len(content) else errno.EIO

    def kernel_lines(self) -> tuple[str, ...]:
        """What the kernel may say of it: any line that names its block device."""
        return (rf"\b{re.escape(self.block_device.resolve().name)}\b",)

    def misread(self, blocks: dict[int, bytes], failing: frozenset[int] = frozenset()) -> list[str]:
        """Reads these blocks; one line for each that is not as expected.

        Args:
            blocks: content that must be read, by number; all of one size.
            failing: numbers among them that must fail with a medium error instead.
        """
        wrong = []
        for number, content in sorted(blocks.items()):
            found = self.read(number, len(content))
            if number in failing:
                if not isinstance(found, int) or found not in MEDIUM_ERRNOS:
                    wrong.append(f"{self.name} block {number}: no medium error, got {_said(found)}")
            elif found != content:
                wrong.append(f"{self.name} block {number}: wrong content, got {_said(found)}")
        return wrong

    def _open(self, flags: int) -> _Disk:
        return _Disk(self.block_device, flags | os.O_DIRECT | os.O_CLOEXEC)


class _Disk:
    """An open file descriptor, closed at the end of its block."""

    def __init__(self, path: Path, flags: int) -> None:
        self.fd = os.open(path, flags)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *ended: object) -> None:
        os.close(self.fd)


def _said(found: bytes | int) -> str:
    if isinstance(found, int):
        return errno.errorcode.get(found, str(found))
    return f"{len(found)} bytes starting {found[:8].hex()}"
