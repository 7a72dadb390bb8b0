"""One boot of the guest for the checks of several test files, those that are run."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.guest.guest_vm import GuestReport, run_checks

# In this order: before drop_in nobody has told the kernel to wait for answers of a listener.
SHARED = ("tcmu_provider", "worker_takeover", "drop_in")
TIMEOUT_S = 2400


@pytest.fixture(scope="session")
def shared_boot(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], None]:
    """Requires a check of one of ``SHARED``, by module and name."""
    asked = {
        getattr(item.module, "CHECKED", "")
        for item in request.session.items
        if isinstance(item, pytest.Function)
    }
    modules = [module for module in SHARED if module in asked]
    reports: list[GuestReport] = []

    def require(module: str, name: str) -> None:
        if not reports:
            folder = tmp_path_factory.mktemp("guest")
            reports.append(run_checks(modules, folder, TIMEOUT_S, "--memory", "3G"))
        reports[0].require(f"{module}.{name}")

    return require
