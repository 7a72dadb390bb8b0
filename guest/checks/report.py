"""Runs checks in the guest and reports each by name to GUEST_RESULT/checks.json."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

from guest import dmesg

__all__ = ["Check", "named_checks", "run_checks"]

Check = Callable[[Path], None]
_PREFIX = "check_"


def named_checks(module: Mapping[str, object]) -> dict[str, Check]:
    """The functions ``check_NAME`` of a module's globals, by NAME, in their order."""
    return {
        name.removeprefix(_PREFIX): check
        for name, check in module.items()
        if name.startswith(_PREFIX) and callable(check)
    }


def run_checks(checks: Mapping[str, Check], wanted: list[str]) -> int:
    """Runs the named checks, or all, each in a folder of its own on tmpfs.

    A check holds when it raises nothing and the kernel log stays clean. The report is written
    after each one, so that a crash of the guest loses none that ended. Returns 0 when all held.
    """
    results: dict[str, str] = {}
    for name in wanted or checks:
        print(f"check {name}", flush=True)
        begin_s = time.monotonic()
        results[name] = _run(name, checks[name])
        print(f"  {results[name] or 'ok'} ({time.monotonic() - begin_s:.1f} s)", flush=True)
        Path(os.environ["GUEST_RESULT"], "checks.json").write_text(json.dumps(results))
    return 1 if any(results.values()) else 0


def _run(name: str, check: Check) -> str:
    marker = f"obdsup check {name}"
    dmesg.mark(marker)
    with tempfile.TemporaryDirectory(prefix="check-", ignore_cleanup_errors=True) as folder:
        try:
            check(Path(folder))
        except Exception:  # noqa: BLE001 - the top of this program: reported, never lost
            return traceback.format_exc()
    log = subprocess.run(["dmesg"], capture_output=True, text=True, check=True).stdout
    found = dmesg.complaints(log, marker)
    return "\n".join(["kernel log:", *found]) if found else ""
