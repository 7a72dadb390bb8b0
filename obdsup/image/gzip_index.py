"""Makes the index of a gzip file, which a turboOCI layer's target needs when it is a tar.gz."""

from __future__ import annotations

import os
from dataclasses import dataclass

from obdsup.errors import ConfigError
from obdsup.format.sink import atomic_output
from obdsup.image import long_call
from obdsup.image.long_call import Report
from obdsup.image.native import check, ffi, lib, new_info

__all__ = ["GzipIndexed", "write_gzip_index"]


@dataclass(frozen=True)
class GzipIndexed:
    """What was indexed; each of the ``point_cnt`` points is where inflating may begin."""

    gzip_bytes: int
    plain_bytes: int
    index_bytes: int
    point_cnt: int
    member_cnt: int


def write_gzip_index(
    path: str, target: str, *, may_replace: bool = False, report: Report | None = None
) -> GzipIndexed:
    """Reads ``path`` once and writes its index to ``target``, which appears whole or not at all.

    All members are indexed, each from where it begins; their checksums are compared on the way.

    Raises:
        ConfigError: ``target`` exists, or is ``path``.
        FormatError: ``path`` is not gzip, is cut, or damaged.
        NativeError: the storage failed.
    """
    if os.path.exists(target) and os.path.exists(path) and os.path.samefile(path, target):
        raise ConfigError(f"{target}: is the input of this command too", path=target)
    done, info = ffi.new("struct obd_gzip_indexed *"), new_info()
    names = os.fsencode(path), os.fsencode(target)
    with atomic_output(target, may_replace=may_replace) as file:
        fd, span = file.fileno(), lib.OBD_GZIP_SPAN_BYTES
        code = long_call.run(
            lambda progress: int(
                lib.obd_gzip_index_write(names[0], fd, names[1], span, progress, info, done)
            ),
            report,
        )
        check("gzip index", code, info)
    return GzipIndexed(
        int(done.gzip_bytes),
        int(done.plain_bytes),
        int(done.index_bytes),
        int(done.point_cnt),
        int(done.member_cnt),
    )
