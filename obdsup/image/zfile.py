"""Compresses, extracts and checks ZFiles, at the speed of all processors."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from obdsup.errors import ConfigError, FormatError
from obdsup.format import tar_writer
from obdsup.format.sink import atomic_output
from obdsup.format.zfile_header import Algorithm
from obdsup.image import long_call
from obdsup.image.long_call import Report
from obdsup.image.native import check, ffi, lib, new_info

__all__ = ["Checked", "Compressed", "ZFileOptions", "check_zfile", "compress", "extract"]

_MAX_THREADS = 64
_KEPT_DAMAGES = 100
# A stored block beyond it does not fit the buffer into which overlaybd reads.
REFERENCE_BUFFER_BYTES = 65536


def _check_threads(threads: int) -> None:
    if not 0 <= threads <= _MAX_THREADS:
        raise ConfigError(
            f"threads: expected 0 (one per processor) to {_MAX_THREADS}, found {threads}"
        )


@dataclass(frozen=True)
class ZFileOptions:
    """How to compress; the defaults are those of the reference.

    Attributes:
        has_crc: each block is followed by a checksum, which readers then verify.
        overwrites_header: the header is written again with the trailer's values. Committed layers
            have that, what ``overlaybd-zfile`` and ``-merge`` make does not.
        threads: 0 for as many as there are processors. Does not change the output.
    """

    algorithm: Algorithm = Algorithm.LZ4
    block_bytes: int = 4096
    has_crc: bool = True
    overwrites_header: bool = False
    threads: int = 0

    def __post_init__(self) -> None:
        _check_threads(self.threads)

    def fill(self, native: Any) -> None:
        """Into a ``struct obd_zfile_options``."""
        native.algorithm = int(self.algorithm)
        native.block_bytes = self.block_bytes
        native.has_crc = self.has_crc
        native.overwrites_header = self.overwrites_header
        native.thread_cnt = self.threads


@dataclass(frozen=True)
class Compressed:
    """What came out; ``longest_block_bytes`` is the longest block as it is stored."""

    content_bytes: int
    file_bytes: int
    block_cnt: int
    longest_block_bytes: int


@dataclass(frozen=True)
class Checked:
    """What ``check_zfile`` found; ``damages`` are the first of ``damage_cnt``."""

    content_bytes: int
    block_cnt: int
    damage_cnt: int
    damages: list[tuple[int, FormatError]]  # offset in the content, what is wrong


def reference_warning(longest_block_bytes: int) -> str:
    """Why overlaybd can not read the file, or "" if it can."""
    if longest_block_bytes <= REFERENCE_BUFFER_BYTES:
        return ""
    return (
        f"overlaybd can not read this file: a block takes {longest_block_bytes} bytes, its reader "
        f"has room for {REFERENCE_BUFFER_BYTES}; use blocks of 32k or less"
    )


def compress(
    source: int,
    source_name: str,
    target: str,
    options: ZFileOptions,
    *,
    in_tar: bool = False,
    may_replace: bool = False,
    report: Report | None = None,
) -> Compressed:
    """Makes the ZFile ``target`` of what the descriptor ``source`` gives until its end.

    A regular file is read by several threads at once, from its present position; a pipe works too.
    ``target`` appears whole or not at all.

    Raises:
        ConfigError: ``target`` exists and may not be replaced.
        NativeError, ObdError: reading or writing failed.
        KeyboardInterrupt: nothing is left behind.
    """
    native, info = ffi.new("struct obd_zfile_options *"), new_info()
    options.fill(native)
    written = ffi.new("struct obd_zfile_written *")
    base = tar_writer.BASE_BYTES if in_tar else 0
    with atomic_output(target, may_replace=may_replace) as file:
        code = long_call.run(
            lambda progress: int(
                lib.obd_zfile_write_fd(
                    source,
                    os.fsencode(source_name),
                    file.fileno(),
                    os.fsencode(target),
                    base,
                    native,
                    progress,
                    info,
                    written,
                )
            ),
            report,
        )
        check("compress", code, info)
        if in_tar:
            wrap_in_tar(file.fileno(), int(written.file_bytes))
    return Compressed(
        int(written.content_bytes),
        int(written.file_bytes),
        int(written.block_cnt),
        int(written.longest_bytes),
    )


def wrap_in_tar(descriptor: int, payload_bytes: int) -> None:
    """Completes a file whose payload was written from ``tar_writer.BASE_BYTES`` on."""
    _write_all(descriptor, tar_writer.tail(payload_bytes), tar_writer.BASE_BYTES + payload_bytes)
    _write_all(descriptor, tar_writer.head(payload_bytes), 0)


def _write_all(descriptor: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, at)
        view, at = view[written:], at + written


def extract(
    source: str,
    target: str,
    *,
    threads: int = 0,
    may_replace: bool = False,
    report: Report | None = None,
) -> int:
    """Writes what the ZFile ``source`` (also one in a tar) holds to ``target``; returns its bytes.

    Every block is checked before it is written, and ``target`` appears whole or not at all.

    Raises:
        ConfigError: ``target`` exists and may not be replaced, or is ``source``.
        FormatError: ``source`` is no ZFile, or damaged.
    """
    _check_threads(threads)
    length, info = ffi.new("uint64_t *"), new_info()
    with atomic_output(target, may_replace=may_replace) as file:
        code = long_call.run(
            lambda progress: int(
                lib.obd_zfile_extract(
                    os.fsencode(source),
                    file.fileno(),
                    os.fsencode(target),
                    threads,
                    progress,
                    info,
                    length,
                )
            ),
            report,
        )
        check("extract", code, info)
    return int(length[0])


def check_zfile(path: str, *, threads: int = 0, report: Report | None = None) -> Checked:
    """Reads every block of a ZFile (also one in a tar) and checks it.

    Raises:
        FormatError: header, trailer or jump table are damaged, so that no block can be found.
    """
    _check_threads(threads)
    damages = ffi.new("struct obd_zfile_damage[]", _KEPT_DAMAGES)
    checked, info = ffi.new("struct obd_zfile_checked *"), new_info()
    code = long_call.run(
        lambda progress: int(
            lib.obd_zfile_check(
                os.fsencode(path), threads, progress, info, damages, _KEPT_DAMAGES, checked
            )
        ),
        report,
    )
    check("verify", code, info)
    found: list[tuple[int, FormatError]] = []
    for damage in damages[0 : min(int(checked.damage_cnt), _KEPT_DAMAGES)]:
        try:
            check("verify", int(damage.info.code), ffi.addressof(damage, "info"))
        except FormatError as error:
            found.append((int(damage.content_offset_bytes), error))
    return Checked(
        int(checked.content_bytes), int(checked.block_cnt), int(checked.damage_cnt), found
    )
