"""What the worker process is to the kernel: identity, protection, and a lean interpreter.

``site`` and the finders of an editable install cost 2.5 MiB of private memory and 15 ms: the
worker starts itself anew without them (same pid, same start time, same fds).
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys

from obdsup.worker import log

__all__ = ["confine", "protect", "raise_fd_limit", "relaunch_lean", "start_time_ticks"]

NICE = -10  # whoever waits for our I/O must not be scheduled before us: take-overs on a busy host
OOM_SCORE_ADJ = -999  # the kernel kills anything else first: the device's users wait on us


def relaunch_lean() -> None:
    """Replaces the process image by one without ``site``; returns if it runs lean already.

    Malloc arenas are limited on the way: with one arena per thread each idle I/O thread would hold
    memory of its own.
    """
    if sys.flags.no_site:
        return
    import _cffi_backend  # type: ignore[import-untyped]

    import obdsup

    roots = [
        os.path.dirname(os.path.dirname(os.path.abspath(obdsup.__file__))),
        os.path.dirname(os.path.abspath(_cffi_backend.__file__)),
    ]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(roots))
    environment["MALLOC_ARENA_MAX"] = "1"
    flags = ["-S", "-s", "-P"]
    arguments = [sys.executable, *flags, "-m", "obdsup.worker", *sys.argv[1:]]
    os.execve(sys.executable, arguments, environment)


def start_time_ticks() -> int:
    """Field 22 of /proc/self/stat: with the pid it names this process, also after pid reuse."""
    with open("/proc/self/stat", "rb") as stat:
        text = stat.read()
    return int(text[text.rindex(b")") + 2 :].split()[19])


def raise_fd_limit() -> None:
    """As many files as may be: a standby has those of all images open, some for each layer."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def protect() -> None:
    """Asks to run before its users, to outlive an OOM, not to wait for our own I/O in reclaim.

    All need privileges; without them the worker serves all the same, and the log says so.
    """
    from obdsup.worker.native import set_io_flusher

    error = set_io_flusher()
    if error:
        log.event("process.io_flusher_refused", reason=os.strerror(error))
    try:
        os.setpriority(os.PRIO_PROCESS, 0, NICE)
    except OSError as refusal:
        log.event("process.priority_refused", reason=refusal.strerror)
    if os.getsid(0) == os.getpid():  # where sessions share the processor, ours must come first too
        with contextlib.suppress(OSError), open("/proc/self/autogroup", "w") as group:
            group.write(str(NICE))
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as score:
            score.write(str(OOM_SCORE_ADJ))
    except OSError as refusal:
        log.event("process.oom_score_refused", reason=refusal.strerror)


def confine() -> None:
    """Gives up what serving needs not, for good; before any thread is started.

    A kernel that has no such means is no reason not to serve: the log says what is missing.
    """
    from obdsup.worker.native import drop_privileges, filter_calls

    for name, give_up in (("privileges", drop_privileges), ("system_calls", filter_calls)):
        error = give_up()
        if error:
            log.event(f"process.{name}_kept", log.WARNING, reason=os.strerror(error))
