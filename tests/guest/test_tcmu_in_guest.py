"""The tcmu provider on a real kernel: one boot, many checks (guest/checks/tcmu_provider.py)."""

from __future__ import annotations

from pathlib import Path

import pytest

from guest.checks.tcmu_provider import CHECKS
from tests.guest.guest_vm import GuestReport, run_checks

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> GuestReport:
    result: Path = tmp_path_factory.mktemp("guest")
    return run_checks("tcmu_provider", result, timeout_s=900)


@pytest.mark.parametrize("name", CHECKS)
def test_in_guest(report: GuestReport, name: str) -> None:
    report.require(name)
