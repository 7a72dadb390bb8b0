"""A worker whose images open slowly on demand: a lower that is a FIFO waits for its writer.

Everything else is the real worker. Run as a program, with the worker's own arguments.
"""

from __future__ import annotations

import os
import stat

from obdsup.worker import __main__ as worker
from obdsup.worker import device
from obdsup.worker.native import Image


class SlowImage(Image):
    """Opens after somebody opened each FIFO among the lowers for writing."""

    def __init__(
        self, lowers: list[str], upper: tuple[str, str] | None, cache_dir: str = ""
    ) -> None:
        for path in lowers:
            if os.path.exists(path) and stat.S_ISFIFO(os.stat(path).st_mode):
                os.close(os.open(path, os.O_RDONLY))
        super().__init__(lowers, upper, cache_dir)


device.Image = SlowImage  # type: ignore[misc]

if __name__ == "__main__":
    worker.main()
