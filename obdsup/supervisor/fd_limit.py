"""How many files this process may have open, and whether that is enough for one device more.

The soft limit is for programs that use select(2); we do not, so it is raised to the hard one.
"""

from __future__ import annotations

import os
import resource

from obdsup.errors import ConfigError

__all__ = ["FDS_PER_DEVICE", "FDS_SPARE", "check_room", "raise_fd_limit"]

# Ring (1 to 3) and journal of a device; pidfd, connection and hang watch's of its worker.
FDS_PER_DEVICE = 8
FDS_SPARE = 64  # take-overs and operations under way, state.db, sockets


def raise_fd_limit() -> int:
    """Raises the soft limit of this process to the hard one; returns it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def check_room(in_use: int | None = None, limit: int | None = None) -> None:
    """Returns when one device more fits.

    Args:
        in_use: open files; None: look.
        limit: how many there may be; None: look.

    Raises:
        ConfigError: it does not. Said before anything is made: a take-over that can not open a
            file any more would be worse.
    """
    if in_use is None:
        in_use = len(os.listdir("/proc/self/fd"))
    if limit is None:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if in_use + FDS_PER_DEVICE + FDS_SPARE > limit:
        raise ConfigError(
            f"no room for one device more: {in_use} of {limit} files are open, a device takes"
            f" {FDS_PER_DEVICE} and {FDS_SPARE} are kept free",
            hint="raise the limit (LimitNOFILE= in the unit, or ulimit -n) and restart the"
            " supervisor; workers serve on meanwhile",
        )
