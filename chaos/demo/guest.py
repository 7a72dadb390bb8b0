"""The demo on a kernel with TCMU, in a guest, when this host has none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from chaos.rig.problem import REPO, RigError, run

__all__ = ["has_tcmu", "run_in_guest"]

MODULES = ("target_core_user", "tcm_loop")
MEMORY = "3G"
BOOT_AND_CHECK_S = 1200  # beside DEMO_SECONDS: emulation is slow
ARGUMENTS_IN_GUEST = ("--provider", "tcmu", "--patience", "300", "--pause", "0.005")


def has_tcmu() -> bool:
    """Whether this kernel has, or can load, the modules of the tcmu provider."""
    return all(_has_module(name) for name in MODULES)


def run_in_guest(arguments: list[str], seconds: float, written: list[Path]) -> int:
    """Runs the demo in the guest with these arguments; returns its exit code.

    The guest sees this host's files and keeps its changes to itself; the files and folders in
    ``written`` are copied back when the demo has ended.
    """
    command = [sys.executable, "-m", "guest", "run", "--memory", MEMORY]
    command += ["--timeout", str(int(seconds) + BOOT_AND_CHECK_S)]
    for path in written:
        command += ["--copy-back", str(path.absolute())]
    command += ["--", sys.executable, "-m", "chaos.demo", *arguments, *ARGUMENTS_IN_GUEST]
    process = subprocess.Popen(command, cwd=REPO, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.wait()  # it got the same Ctrl-C and ends its QEMU
        raise


def _has_module(name: str) -> bool:
    if Path("/sys/module", name).is_dir():
        return True
    try:
        run(["modprobe", "--dry-run", "--quiet", name], what=f"look for {name}")
    except RigError:
        return False
    return True
