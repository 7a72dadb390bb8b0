"""systemd as PID 1, a real kernel's rings: one boot, see guest/checks/systemd_service.py."""

from __future__ import annotations

import pytest

from guest.checks.systemd_service import CHECKS
from tests.guest.guest_vm import GuestReport, run_checks

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> GuestReport:
    result = tmp_path_factory.mktemp("guest")
    return run_checks(["systemd_service"], result, 1200, "--init", "systemd")


@pytest.mark.parametrize("name", CHECKS)
def test_in_guest(report: GuestReport, name: str) -> None:
    report.require(f"systemd_service.{name}")
