"""What a run says when it can not go on, and how it runs the tools it stands on."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["REPO", "Overdue", "RigError", "run", "say", "venv_program"]

INTERRUPTED_TOOL_TIMEOUT_S = 10.0
REPO = Path(__file__).resolve().parents[2]


class RigError(Exception):
    """The run can not go on; the message names the step and what the tool said."""


class Overdue(RigError):
    """What was waited for did not come: never excused by what else happened meanwhile."""


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

    Its own group, so that Ctrl-C interrupts the run and not a tool half way through its clean-up.

    Raises:
        RigError: it is missing, took longer than timeout_s, or its exit code is not in ``ok``.
    """
    arguments = [str(part) for part in command]
    try:
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            cwd=cwd,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
    except OSError as error:
        raise RigError(f"{what}: {error}") from error
    try:
        output, errors = process.communicate(stdin, timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        process.kill()  # and no wait: a tool that waits for a dead disk can not even be killed
        raise Overdue(f"{what}: {arguments[0]} did not end in {timeout_s:.0f} s") from error
    except KeyboardInterrupt:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=INTERRUPTED_TOOL_TIMEOUT_S)
        raise
    if process.returncode not in ok:
        said = (errors.strip() or output.strip())[-1500:]
        raise RigError(f"{what}: {arguments[0]} ended with {process.returncode}: {said}")
    return output


def venv_program(name: str) -> str:
    """The path of a program installed beside the running Python."""
    return str(Path(sys.executable).parent / name)
