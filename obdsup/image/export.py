"""The disk of an image: into a raw file, or its digest. All processors work on it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from typing import Any

from obdsup.format.config import ImageConfig
from obdsup.format.sink import atomic_output
from obdsup.image import long_call
from obdsup.image.long_call import Report
from obdsup.image.native import check, lib, new_info
from obdsup.image.opened import size_of
from obdsup.image.spec import image_spec

__all__ = ["disk_sha256", "export_disk"]

_PIECE_BYTES = 1 << 20


def export_disk(
    image: ImageConfig, target: str, *, may_replace: bool = False, report: Report | None = None
) -> int:
    """Writes the virtual disk as the sparse raw file ``target``; returns its length.

    ``target`` appears whole or not at all.

    Raises:
        ConfigError: ``target`` exists and may not be replaced, a file is missing.
        FormatError: a block or file of the image is damaged.
        NativeError, ObdError: the storage failed.
        KeyboardInterrupt: nothing is left behind.
    """
    size = size_of(image)
    with atomic_output(target, may_replace=may_replace) as file:
        file.truncate(size)
        _run(image, file.fileno(), target, is_stream=False, report=report)
    return size


def disk_sha256(image: ImageConfig, report: Report | None = None) -> str:
    """Digest of the whole virtual disk, holes as zeros; errors as of ``export_disk``."""
    digest = hashlib.sha256()
    reader, writer = os.pipe()

    def consume() -> None:
        with open(reader, "rb", buffering=0) as stream:
            while piece := stream.read(_PIECE_BYTES):
                digest.update(piece)

    thread = threading.Thread(target=consume, name="sha256")
    thread.start()
    with contextlib.ExitStack() as ending:
        ending.callback(thread.join)
        ending.callback(os.close, writer)  # first: the reader then sees the end
        _run(image, writer, image.path, is_stream=True, report=report)
    return digest.hexdigest()


def _run(
    image: ImageConfig, descriptor: int, name: str, *, is_stream: bool, report: Report | None
) -> None:
    keep: list[Any] = []
    spec, info = image_spec(image, keep), new_info()
    code = long_call.run(
        lambda progress: int(
            lib.obd_disk_export(spec, descriptor, os.fsencode(name), is_stream, 0, progress, info)
        ),
        report,
    )
    check("export", code, info)
