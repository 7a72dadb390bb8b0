"""A running supervisor over fakes. Its directory has a short path: socket names are limited."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from obdsup.supervisor.worker_cgroup import WorkerCgroups
from tests.conftest import eventually
from tests.supervisor.fake_service import FakeService


@pytest.fixture
def idle(request: pytest.FixtureRequest) -> Iterator[FakeService]:
    """Not started yet."""
    root = Path(tempfile.mkdtemp(prefix="obdE"))
    service = FakeService(root)
    yield service
    service.close()
    eventually(WorkerCgroups(root / "run").remove_empty, 20)
    if "Traceback" in service.log_text():
        print(service.log_text())
    shutil.rmtree(root)


@pytest.fixture
def service(idle: FakeService) -> FakeService:
    """Running, with a warm standby."""
    idle.start()
    idle.wait_for_standby()
    return idle
