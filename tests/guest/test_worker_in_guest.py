"""Real workers on a real kernel's rings: one boot, see guest/checks/worker_takeover.py."""

from __future__ import annotations

import pytest

from guest.checks.worker_takeover import CHECKS
from tests.guest.guest_vm import GuestReport, run_checks

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> GuestReport:
    return run_checks("worker_takeover", tmp_path_factory.mktemp("guest"), timeout_s=1200)


@pytest.mark.parametrize("name", CHECKS)
def test_in_guest(report: GuestReport, name: str) -> None:
    report.require(name)
