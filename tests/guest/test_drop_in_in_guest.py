"""Devices made in configfs by others, on a real kernel: see guest/checks/drop_in.py."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from guest.checks.drop_in import CHECKS

pytestmark = pytest.mark.kernel
CHECKED = "drop_in"


@pytest.mark.parametrize("name", CHECKS)
def test_in_guest(shared_boot: Callable[[str, str], None], name: str) -> None:
    shared_boot(CHECKED, name)
