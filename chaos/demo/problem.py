"""What the demo says when it can not go on, and how it runs the tools it stands on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["REPO", "DemoError", "run", "say", "venv_program"]

REPO = Path(__file__).resolve().parents[2]


class DemoError(Exception):
    """The demo can not be carried out; the message names the step and what the tool said."""


def say(text: str) -> None:
    """Prints one progress line at once, also into a pipe."""
    print(text, flush=True)


def run(
    command: Sequence[str | Path],
    *,
    what: str,
    stdin: str | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout_s: float = 600.0,
    ok: Sequence[int] = (0,),
) -> str:
    """Runs a tool to its end in its own process group and returns its standard output.

    Its own group, so that Ctrl-C interrupts the demo and not a tool half way through its clean-up.

    Raises:
        DemoError: it is missing, took longer than timeout_s, or its exit code is not in ``ok``.
    """
    arguments = [str(part) for part in command]
    try:
        done = subprocess.run(
            arguments,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            cwd=cwd,
            env={**os.environ, **(env or {})},
            timeout=timeout_s,
            start_new_session=True,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DemoError(f"{what}: {error}") from error
    if done.returncode not in ok:
        said = (done.stderr.strip() or done.stdout.strip())[-1500:]
        raise DemoError(f"{what}: {arguments[0]} ended with {done.returncode}: {said}")
    return done.stdout


def venv_program(name: str) -> str:
    """The path of a program installed beside the running Python."""
    return str(Path(sys.executable).parent / name)
