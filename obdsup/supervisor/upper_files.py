"""The writable layer made for a device: an empty pair of files, all of it or nothing."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from obdsup.errors import ConfigError

__all__ = ["DATA_NAME", "INDEX_NAME", "make_upper"]

DATA_NAME, INDEX_NAME = "upper.data", "upper.index"
TIMEOUT_S = 60


def make_upper(command: tuple[str, ...], folder: Path, size_bytes: int) -> None:
    """Makes ``folder`` holding an empty upper; does nothing when it is there.

    The pair is made beside it and the folder renamed into place, so a crash leaves either nothing
    or the whole. Done by command line: the supervisor does not know the formats.

    Raises:
        ConfigError: the command failed.
    """
    if folder.exists():
        return
    draft = folder.with_name(folder.name + ".new")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700, parents=True)
    argv = [
        *command, "image", "new-upper", "--size", str(size_bytes),
        str(draft / DATA_NAME), str(draft / INDEX_NAME),
    ]  # fmt: skip
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"writable layer in {draft} could not be made: {error}") from error
    if done.returncode != 0:
        raise ConfigError(
            f"writable layer in {draft} could not be made: {done.stderr.strip() or done.stdout}",
            exit_code=done.returncode,
        )
    draft.rename(folder)
