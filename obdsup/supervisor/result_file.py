"""The file in which a snapshotter is told how opening an image went: ``success`` or ``failed:WHY``.

Source: overlaybd-formats 5.2. Written over in place, as the reference does it.
"""

from __future__ import annotations

import logging
import os

__all__ = ["write_result"]

log = logging.getLogger(__name__)
MESSAGE_MAX_BYTES = 4000


def write_result(path: str, failure: Exception | None) -> None:
    """Reports an outcome; does nothing without a path. A report that can not be written is logged:
    it is no reason not to serve.
    """
    if not path:
        return
    text = "success"
    if failure is not None:
        text = f"failed:{' '.join(str(failure).split())}"
    data = text.encode(errors="replace")[:MESSAGE_MAX_BYTES]
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NONBLOCK  # not on a FIFO
    try:
        fd = os.open(path, flags, 0o644)
        try:
            os.write(fd, data)
        finally:
            os.close(fd)
    except OSError as error:
        log.warning("result file %s can not be written: %s", path, error.strerror)
