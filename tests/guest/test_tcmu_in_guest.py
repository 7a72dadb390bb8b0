"""The tcmu provider on a real kernel: see guest/checks/tcmu_provider.py."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from guest.checks.tcmu_provider import CHECKS

pytestmark = pytest.mark.kernel
CHECKED = "tcmu_provider"


@pytest.mark.parametrize("name", CHECKS)
def test_in_guest(shared_boot: Callable[[str, str], None], name: str) -> None:
    shared_boot(CHECKED, name)
