"""Devices made in configfs by others, on a real kernel: one boot, see guest/checks/drop_in.py."""

from __future__ import annotations

import pytest

from guest.checks.drop_in import CHECKS
from tests.guest.guest_vm import GuestReport, run_checks

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> GuestReport:
    folder = tmp_path_factory.mktemp("guest")
    return run_checks("drop_in", folder, 1800, "--memory", "3G")


@pytest.mark.parametrize("name", CHECKS)
def test_in_guest(report: GuestReport, name: str) -> None:
    report.require(name)
