"""The limit of open files: raised at start, and no device is made that would not fit."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from obdsup.errors import ConfigError
from obdsup.supervisor.fd_limit import FDS_PER_DEVICE, FDS_SPARE, check_room
from tests.conftest import eventually
from tests.supervisor.fake_service import FakeService


def soft_limit(pid: int) -> int:
    return resource.prlimit(pid, resource.RLIMIT_NOFILE)[0]


@pytest.mark.parametrize("module", ["obdsup.supervisor.fd_limit", "obdsup.worker.process"])
def test_the_soft_limit_is_raised_to_the_hard_one(module: str) -> None:
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 512));"
        f"import {module} as m; m.raise_fd_limit();"
        "print(*resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["512", "512"]


def test_a_device_that_fits_exactly_and_one_that_does_not() -> None:
    check_room(100, 100 + FDS_PER_DEVICE + FDS_SPARE)
    with pytest.raises(ConfigError, match="101 of 172 files") as caught:
        check_room(101, 100 + FDS_PER_DEVICE + FDS_SPARE)
    assert "LimitNOFILE" in caught.value.hint


@pytest.mark.integration
def test_a_device_that_does_not_fit_is_refused_and_the_others_are_served(
    service: FakeService,
) -> None:
    assert service.process is not None
    pid = service.process.pid
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    assert soft == hard, "the supervisor raised its own"
    service.create("a")
    service.wait_for_standby()
    in_use = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (in_use + FDS_SPARE, hard))
    with pytest.raises(ConfigError, match="no room for one device more"):
        service.create("b")
    (refused,) = eventually(lambda: service.events("operation.refused"), 20)
    assert (refused["device"], "files are open" in refused["fields"]["reason"]) == ("b", True)
    service.online_with_other_worker("a", service.kill_worker("a"))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))
    service.create("b")
