"""One boot of the guest for many checks: what a script in ``guest/checks`` reported, by name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
KERNEL = os.environ.get("OBDSUP_GUEST_KERNEL", "6.1")


@dataclass(frozen=True)
class GuestReport:
    """The report of one boot: per check "" or what went wrong."""

    checks: dict[str, str]
    output: str

    def require(self, name: str) -> None:
        """Fails when the check failed, or was never reached."""
        assert name in self.checks, f"the guest did not get to {name}:\n{self.output[-3000:]}"
        assert self.checks[name] == "", self.checks[name]


def run_checks(
    modules: Sequence[str], result: Path, timeout_s: float, *options: str
) -> GuestReport:
    """Boots the guest and runs the checks of ``guest.checks.MODULE``, named MODULE.NAME."""
    if not (REPO / "build" / "guest" / KERNEL / "ready").is_file():
        pytest.skip(f"guest kernel {KERNEL} is not prepared (make kernel)")
    guest = [sys.executable, "-m", "guest", "run", "--kernel", KERNEL, "--result", str(result)]
    done = subprocess.run(
        [
            *guest, "--timeout", str(timeout_s), *options,
            "--", sys.executable, "-m", "guest.checks", *modules,
        ],
        cwd=REPO, capture_output=True, text=True, check=False,
    )  # fmt: skip
    report = result / "checks.json"
    checks = json.loads(report.read_text()) if report.is_file() else {}
    output = done.stdout + done.stderr
    if done.returncode == 0:
        assert checks, f"the guest succeeded without a report:\n{output[-3000:]}"
    return GuestReport(checks, output)
