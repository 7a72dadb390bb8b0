"""Fixtures shared by all tests: the reference vectors, waiting, what the host offers."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")
PATIENCE = float(os.environ.get("OBDSUP_TEST_PATIENCE", "4"))

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def vectors() -> Path:
    """The folder of reference files; tests that need it are skipped when it is absent."""
    path = Path(os.environ.get("OBDSUP_VECTORS", REPO.parent / "shared" / "vectors"))
    if not (path / "manifest.json").is_file():
        pytest.skip(f"reference vectors not found at {path} (set OBDSUP_VECTORS)")
    return path


def eventually(predicate: Callable[[], T], timeout_s: float = 10.0) -> T:
    """Waits until predicate() is true and returns its value; raises AssertionError at the bound.

    The bound is what a quiet machine would need at most; a crowded one gets PATIENCE times that, so
    that it is only ever met by what does not happen at all.
    """
    timeout_s *= PATIENCE
    deadline = time.monotonic() + timeout_s
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {timeout_s} s: {predicate}")
        time.sleep(0.005)


def pytest_configure() -> None:
    """Children must be able to get a SIGINT, also when the suite itself was started with it ignored
    (in the background of a shell without job control): a handler of ours is not inherited."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked ``host`` need root, FUSE and loop devices: skipped with a reason elsewhere."""
    reason = ""
    if os.geteuid() != 0:
        reason = "needs root"
    elif not os.path.exists("/dev/fuse"):
        reason = "needs /dev/fuse"
    for item in items:
        if reason and item.get_closest_marker("host"):
            item.add_marker(pytest.mark.skip(reason=reason))
