"""How far long work is, on a terminal: bytes, rate, time left. Nothing in a pipe."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

__all__ = ["Report", "progress"]

# (done, total) in bytes; total is 0 as long as it is not known.
Report = Callable[[int, int], None]


@contextlib.contextmanager
def progress(label: str) -> Iterator[Report]:
    """Gives what to report to: a bar on stderr when that is a terminal, nothing otherwise.

    ``with progress("compress") as report: long_call.run(call, report)``
    """
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    # a fifth of a second that only a terminal has to wait
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total or None)
