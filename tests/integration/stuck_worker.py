"""A worker whose control thread stops at a word: python stuck_worker.py FOLDER [worker options].

Once ``FOLDER/PID`` exists, the next question to the worker finds its control thread in what the
file names: "lock" (it waits for a lock that nobody gives back) or "loop" (it turns in circles). The
engine, which needs no Python, serves on.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from obdsup.worker import __main__ as program
from obdsup.worker import process, requests

FOLDER = Path(sys.argv.pop(1))
_parse = requests.parse


def parse(packet: object) -> object:
    order = FOLDER / str(os.getpid())
    if order.exists():
        if order.read_text() == "lock":
            lock = threading.Lock()
            lock.acquire()
            lock.acquire()
        while True:
            pass
    return _parse(packet)  # type: ignore[arg-type]


process.relaunch_lean = lambda: None  # it would start the real worker
requests.parse = parse  # type: ignore[assignment]
program.main()
