"""An installed release of obdsup: a directory with an interpreter that has the package.

Releases lie side by side and are never imported here: their workers are started by command line.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import obdsup
from obdsup.errors import ConfigError

__all__ = [
    "Release",
    "find_release",
    "full_path",
    "own_path",
    "own_release",
    "short_path",
    "worker_command",
]

PROBE_TIMEOUT_S = 20.0
_PROBE = (
    "import json, obdsup; from obdsup.state import journal, messages;"
    "newest = journal.LAYOUT_VERSION;"
    "protocol = messages.PROTOCOL_VERSION;"
    "print(json.dumps({'version': obdsup.__version__, 'journal': newest,"
    " 'oldest_journal': getattr(journal, 'OLDEST_LAYOUT_VERSION', newest),"
    " 'protocol': protocol,"
    " 'oldest_protocol': getattr(messages, 'oldest_version', lambda: protocol)()}))"
)


@dataclass(frozen=True, slots=True)
class Release:
    """One release. ``path`` is "" for the one the supervisor runs from; equality is by path."""

    path: str
    version: str
    interpreter: str
    journal_version: int  # the one its workers write
    protocol_version: int
    oldest_journal_version: int = 0  # that they still read; 0: only their own
    oldest_protocol_version: int = 0  # that they still speak; 0: only their own

    def reads_journal(self, version: int) -> bool:
        """Whether its workers can take a journal of that layout over; 0: there is none."""
        oldest = self.oldest_journal_version or self.journal_version
        return not version or oldest <= version <= self.journal_version

    def protocol(self) -> dict[str, Any]:
        """What its workers announce; see messages.agree."""
        oldest = self.oldest_protocol_version or self.protocol_version
        return {"protocol": self.protocol_version, "oldest_protocol": oldest}


def worker_command(path: str) -> tuple[str, ...]:
    """How a worker of the release at ``path`` is started, without asking it anything. ``-EP``:
    the supervisor's environment or working directory may lead to another release's package."""
    return (str(Path(path) / "bin" / "python"), "-EP", "-m", "obdsup.worker")


def own_path() -> str:
    """Where the release this process runs from lies."""
    return str(Path(sys.executable).parent.parent.resolve())


def full_path(path: str) -> str:
    """A release's path as it is kept where another supervisor may read it: "" has a name there."""
    return path or own_path()


def short_path(path: str) -> str:
    """A kept path as it is used here: "" for the release this process runs from."""
    return "" if path == own_path() else path


def own_release() -> Release:
    """The release this process runs from."""
    from obdsup.state.journal import LAYOUT_VERSION
    from obdsup.state.messages import PROTOCOL_VERSION, oldest_version

    return Release(
        "", obdsup.__version__, sys.executable, LAYOUT_VERSION, PROTOCOL_VERSION,
        oldest_protocol_version=oldest_version(),
    )  # fmt: skip


def find_release(path: Path) -> Release:
    """The release at a path: a virtual environment, or any folder with ``bin/python`` that has it.

    Runs its interpreter once. Blocks for up to PROBE_TIMEOUT_S. Links are followed now: where one
    points to later does not matter.

    Raises:
        ConfigError: there is none, or it can not say what it is.
    """
    path = path.resolve()
    if str(path) == own_path():
        return own_release()
    interpreter = path / "bin" / "python"
    hint = "give the virtual environment that a release was installed into"
    if not os.access(interpreter, os.X_OK):
        raise ConfigError(f"{path} is no release: no {interpreter}", hint=hint)
    try:
        done = subprocess.run(
            [str(interpreter), "-EP", "-c", _PROBE],
            capture_output=True, text=True, timeout=PROBE_TIMEOUT_S, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        found = json.loads(done.stdout) if done.returncode == 0 else None
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"{path} is no release: {error}", hint=hint) from error
    if not isinstance(found, dict):
        last = done.stderr.strip().rsplit("\n", 1)[-1]
        raise ConfigError(f"{path} is no release: {last or done.returncode}", hint=hint)
    return Release(
        str(path), str(found["version"]), str(interpreter), int(found["journal"]),
        int(found["protocol"]), int(found["oldest_journal"]),
        int(found["oldest_protocol"]),
    )  # fmt: skip
