"""An image opened from its ``config.v1.json``: read it, list what it maps, check every block."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from obdsup.errors import FormatError, ObdError
from obdsup.format import config
from obdsup.format.layer import LayerFile, open_layer
from obdsup.format.lsmt_index import Segment
from obdsup.format.sparse_upper import SparseUpper
from obdsup.format.stack import Stack, StackLayer
from obdsup.format.upper import Upper, open_upper
from obdsup.format.warp import REMOTE_SECTOR, WarpLayer

__all__ = ["Image", "Problem"]

_ZEROS = bytes(1 << 20)


@dataclass(frozen=True)
class Problem:
    """One damaged place: ``layer`` counts from the bottom, the upper is the last."""

    layer: int
    error: ObdError


class Image:
    """Sealed lowers and, maybe, an writable upper; a snapshot of when it was opened. Read-only.

    Attributes:
        lowers: bottom to top.
        upper: the writable layer on top, or None.
        size_bytes: the virtual size.
    """

    def __init__(self, files: config.ImageConfig) -> None:
        """Opens all files.

        Raises:
            ConfigError: a file can not be opened, or no layer has a virtual size.
            FormatError: a file is damaged.
        """
        with ExitStack() as opened:
            self.lowers: list[LayerFile] = []
            for lower in files.lowers:
                self.lowers.append(open_layer(lower.path, lower.target, lower.gzip_index))
                opened.callback(self.lowers[-1].close)
            self.upper: Upper | SparseUpper | None = None
            if files.upper is not None:
                self.upper = open_upper(*files.upper)
                opened.callback(self.upper.close)
            self.stack = self._merge()
            self._files = opened.pop_all()
        self.path = files.path
        self._targets = [p for lower in files.lowers for p in (lower.target, lower.gzip_index)]
        self.upper_paths = files.upper if files.upper is not None else ("", "")
        self.size_bytes = self.stack.size_bytes

    @classmethod
    def open(cls, path: str) -> Self:
        """Opens the image of a config file; errors as of ``config.load`` and the constructor."""
        return cls(config.load(path))

    @classmethod
    def of_layer(cls, path: str) -> Self:
        """The image of one sealed layer alone."""
        return cls(config.ImageConfig(path, (config.Lower(path),), None))

    def _merge(self) -> Stack:
        layers: list[tuple[StackLayer, list[Segment], int]] = [
            (lower.layer, lower.layer.segments, lower.layer.header.virtual_size_bytes)
            for lower in self.lowers
        ]
        if self.upper is not None:
            size = self.upper.header.virtual_size_bytes
            layers.append((self.upper, list(self.upper.map), size))
        return Stack(layers)

    @property
    def file_paths(self) -> list[str]:
        """Every file the image is read from, its config among them."""
        upper = [path for path in self.upper_paths if path]
        targets = [path for path in self._targets if path]
        return [self.path, *(lower.layer.path for lower in self.lowers), *targets, *upper]

    @property
    def top_uuid(self) -> str:
        """The uuid of the topmost layer."""
        if self.upper is not None:
            return self.upper.header.uuid
        return self.lowers[-1].layer.header.uuid

    def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        """As ``Stack.read``."""
        return self.stack.read(offset_bytes, length_bytes)

    def segments(self) -> Iterator[Segment]:
        """The merged mappings in disk order; ``tag`` is the layer, bottom = 0."""
        return self.stack.segments()

    def sha256(self, progress: Callable[[int], None] = lambda done: None) -> str:
        """Digest of the whole virtual disk, holes as zeros; ``progress`` gets bytes done."""
        digest = hashlib.sha256()
        reached = 0

        def skip_to(offset: int) -> None:
            nonlocal reached
            while reached < offset:
                step = min(offset - reached, len(_ZEROS))
                digest.update(_ZEROS if step == len(_ZEROS) else _ZEROS[:step])
                reached += step
                progress(reached)

        for offset, data in self.stack.chunks():
            skip_to(offset)
            digest.update(data)
            reached = offset + len(data)
            progress(reached)
        skip_to(self.size_bytes)
        return digest.hexdigest()

    def block_cnt(self) -> int:
        """How many steps ``problems`` takes."""
        return sum(_steps(lower) for lower in self.lowers) + (self.upper is not None)

    def problems(self, progress: Callable[[int], None] = lambda done: None) -> Iterator[Problem]:
        """Reads every block of every layer, hidden ones too; yields the damaged."""
        done = 0
        for position, lower in enumerate(self.lowers):
            for step in range(_steps(lower)):
                try:
                    _take_step(lower, step)
                except (FormatError, ObdError) as error:
                    yield Problem(position, error)
                done += 1
                progress(done)
        if self.upper is not None:
            for segment in self.upper.map:
                try:
                    _read_segment(self.upper, segment)
                except (FormatError, ObdError) as error:
                    yield Problem(len(self.lowers), error)
            progress(done + 1)

    def close(self) -> None:
        """Closes all files."""
        self._files.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _remote(lower: LayerFile) -> list[Segment]:
    """What a turboOCI layer has in its target."""
    if not isinstance(lower.layer, WarpLayer):
        return []
    return [s for s in lower.layer.segments if s.moffset >= REMOTE_SECTOR]


def _steps(lower: LayerFile) -> int:
    if lower.zfile is not None:
        return len(lower.zfile.table) + len(_remote(lower))
    return len(lower.layer.segments)


def _take_step(lower: LayerFile, step: int) -> None:
    if lower.zfile is None:
        _read_segment(lower.layer, lower.layer.segments[step])
    elif step < len(lower.zfile.table):
        lower.zfile.read_block(step)
    else:
        _read_segment(lower.layer, _remote(lower)[step - len(lower.zfile.table)])


def _read_segment(layer: StackLayer, segment: Segment) -> None:
    if not segment.is_zeroed:
        layer.read_payload(segment.moffset, segment.length)
