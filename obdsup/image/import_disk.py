"""A sealed layer of a raw disk: all of it, or what differs from an image below."""

from __future__ import annotations

import os
import stat
from typing import Any

from obdsup.errors import ConfigError
from obdsup.format import tar_writer
from obdsup.format.config import ImageConfig
from obdsup.format.sink import atomic_output
from obdsup.image import long_call
from obdsup.image.commit import Committed, LayerOptions, layer_facts, result_of
from obdsup.image.long_call import Report
from obdsup.image.native import check, ffi, lib, new_info
from obdsup.image.spec import image_spec
from obdsup.image.zfile import wrap_in_tar

__all__ = ["import_disk"]

_SECTOR_BYTES = 512


def _check_disk(path: str) -> None:
    try:
        status = os.stat(path)
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISBLK(status.st_mode)):
            raise ConfigError(f"{path}: expected a raw disk, found neither a file nor a device")
        with open(path, "rb") as disk:
            size = disk.seek(0, os.SEEK_END)
    except OSError as error:
        raise ConfigError(f"{path}: can not be opened: {error.strerror}", path=path) from error
    if not size or size % _SECTOR_BYTES:
        raise ConfigError(
            f"{path}: expected a disk of a multiple of {_SECTOR_BYTES} bytes, found {size}",
            hint="truncate -s %4K rounds it up" if size else "",
        )


def import_disk(
    disk: str,
    target: str,
    options: LayerOptions,
    *,
    base: ImageConfig | None = None,
    may_replace: bool = False,
    report: Report | None = None,
) -> Committed:
    """Writes the layer that on top of ``base`` (None: of nothing) is the raw disk, bit for bit.

    A sector that is equal stays unmapped, one of zeros over something else is a zeroed mapping, any
    other is data. ``target`` appears whole or not at all.

    Raises:
        ConfigError: ``disk`` is missing or not whole sectors, ``target`` exists.
        FormatError: the base is damaged.
        NativeError: the storage failed; more extents than a layer may have.
        KeyboardInterrupt: nothing is left behind.
    """
    _check_disk(disk)
    keep: list[Any] = []
    facts = layer_facts(options, keep)
    below = image_spec(base, keep) if base is not None else ffi.NULL
    done, info = ffi.new("struct obd_committed *"), new_info()
    at = tar_writer.BASE_BYTES if options.in_tar else 0
    with atomic_output(target, may_replace=may_replace) as file:
        code = long_call.run(
            lambda progress: int(
                lib.obd_disk_import(
                    os.fsencode(disk),
                    below,
                    facts,
                    file.fileno(),
                    os.fsencode(target),
                    at,
                    progress,
                    info,
                    done,
                )
            ),
            report,
        )
        check("import", code, info)
        if options.in_tar:
            wrap_in_tar(file.fileno(), int(done.file_bytes))
    return result_of(target, done, options)
