"""Long calls into the C core: watched while they run, stopped by Ctrl-C without leaving halves."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from obdsup.image.native import ffi

__all__ = ["Report", "run"]

# (done, total) in bytes; total is 0 as long as it is not known.
Report = Callable[[int, int], None]

_REPORT_INTERVAL_S = 0.1


def run(call: Callable[[Any], int], report: Report | None = None) -> int:
    """Runs ``call(progress)`` in a thread of its own and returns what it returned.

    ``report`` is called about ten times a second and once at the end, in the caller's thread.

    Raises:
        KeyboardInterrupt: after the call has ended, when Ctrl-C came while it ran.
    """
    progress = ffi.new("struct obd_progress *")
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(int(call(progress))), name="long-call")
    thread.start()
    interrupt: KeyboardInterrupt | None = None
    while thread.is_alive():
        try:
            thread.join(_REPORT_INTERVAL_S)
            if report is not None:
                report(int(progress.done_bytes), int(progress.total_bytes))
        except KeyboardInterrupt as error:
            interrupt = error
            progress.is_cancelled = 1
    if interrupt is not None:
        raise interrupt
    return codes[0]
