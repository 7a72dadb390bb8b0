"""Real workers on a real kernel's rings: see guest/checks/worker_takeover.py."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from guest.checks.worker_takeover import CHECKS

pytestmark = pytest.mark.kernel
CHECKED = "worker_takeover"


@pytest.mark.parametrize("name", CHECKS)
def test_in_guest(shared_boot: Callable[[str, str], None], name: str) -> None:
    shared_boot(CHECKED, name)
