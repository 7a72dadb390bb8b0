"""The one error of this package: a step of building or booting the guest failed."""

from __future__ import annotations

import subprocess
from pathlib import Path

__all__ = ["GuestError", "GuestLockup", "run_logged"]


class GuestError(Exception):
    """Says which step failed and shows the end of its log."""


class GuestLockup(GuestError):
    """The guest's CPUs span in its kernel for two minutes and the kernel's watchdog ended it.

    Seen once, as runc started: both CPUs in the kernel, waiting for each other. The cause is not
    known; the message holds the trace.
    """


def run_logged(command: list[str], log: Path, *, cwd: Path | None = None, stdin: str = "") -> None:
    """Runs a command with its output appended to ``log``.

    Raises:
        GuestError: it could not be started or failed; the message holds the last lines of the log.
    """
    with log.open("ab") as sink:
        try:
            status = subprocess.run(
                command, input=stdin.encode(), stdout=sink, stderr=sink, cwd=cwd, check=False
            ).returncode
        except OSError as error:
            raise GuestError(
                f"{command[0]}: {error.strerror} (run packaging/setup-host.sh)"
            ) from error
    if status:
        end = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise GuestError(f"{' '.join(command[:4])} ... failed with {status}; end of {log}:\n{end}")
