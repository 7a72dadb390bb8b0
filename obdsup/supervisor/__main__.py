"""``python -m obdsup.supervisor``: runs the supervisor in the foreground.

Exit codes: 0 stopped, 2 wrong usage, else those of obdsup/errors.py. SIGTERM and SIGINT leave the
workers serving; the next supervisor adopts them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import shlex
import sqlite3
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import obdsup
from obdsup.errors import AccessDenied, ObdError

if TYPE_CHECKING:
    from obdsup.supervisor.settings import Settings

__all__ = ["main"]

NICE = -10  # as its workers: whoever waits for a take-over must not run before it
SWITCH_INTERVAL_S = 0.0005  # a thread that takes over must not wait 5 ms for one that formats


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """The command line; SystemExit(2) when it is wrong."""
    parser = argparse.ArgumentParser(
        prog="obdsup supervisor",
        description="Starts workers, watches them, and hands their rings over when they die.",
    )
    run_dir = os.environ.get("OBDSUP_RUN_DIR", "/run/obdsup")
    state_dir = os.environ.get("OBDSUP_STATE_DIR", "/var/lib/obdsup")
    add = parser.add_argument
    add("--run-dir", type=Path, default=Path(run_dir), help="sockets, journals, logs (a tmpfs)")
    add("--state-dir", type=Path, default=Path(state_dir), help="state.db and writable layers")
    add("--provider", default="auto", help="auto, tcmu, fuse or load (default: %(default)s)")
    add("--standbys", type=int, default=1, help="warm standbys kept ready (default: %(default)s)")
    add("--prewarm", type=int, default=256, metavar="N",
        help="images a standby holds open (default: %(default)s)")  # fmt: skip
    add(
        "--foreign-per-worker", type=int, default=1, metavar="N",
        help="devices made in configfs by others that share a worker (default: %(default)s)",
    )  # fmt: skip
    add("--worker-command", metavar="CMD", help="how to start a worker, for another release")
    add("--check", action="store_true", help="say whether it could start; changes nothing")
    add("--devices-per-worker", type=int, default=1, metavar="N",
        help="devices on one worker unless chosen otherwise (default: %(default)s)")  # fmt: skip
    add("--quarantine", type=int, default=20, metavar="DEATHS",
        help="leave a device alone after so many deaths in a row without a completed command; "
        "0: never (default: %(default)s)")  # fmt: skip
    add("--poison-after", type=int, default=3, metavar="DEATHS",
        help="answer a command that workers died of so often with a medium error; 0: never "
        "(default: %(default)s)")  # fmt: skip
    add("--hang-limit", type=float, default=5.0, metavar="S",
        help="replace a worker that stands still for so long with work to do; 0: never "
        "(default: %(default)s)")  # fmt: skip
    add(
        "--metrics", nargs="?", const="unix", default="", metavar="ADDRESS",
        help="Prometheus metrics: unix (RUN_DIR/metrics.sock), unix:PATH or 127.0.0.1:PORT",
    )  # fmt: skip
    add(
        "--event-listener", action="append", default=[], metavar="EVENTS=COMMAND",
        help="a supervisord event listener, e.g. PROCESS_STATE_EXITED,OBDSUP_TAKEOVER=/path",
    )  # fmt: skip
    add("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> int:
    """Runs until told to stop.

    Raises:
        ObdError: it could not start.
    """
    from obdsup.supervisor.service import Service
    from obdsup.supervisor.settings import Settings

    if os.geteuid() != 0 and options.provider != "load":
        raise AccessDenied(
            "the supervisor needs root: rings, loop devices and mounts belong to it",
            hint="only --provider load, which makes no device, can do without",
        )
    extra: dict[str, Any] = {}
    if options.worker_command:
        extra["worker_command"] = tuple(shlex.split(options.worker_command))
    settings = Settings(
        run_dir=options.run_dir.absolute(),
        state_dir=options.state_dir.absolute(),
        provider=options.provider,
        standbys=options.standbys,
        prewarm_max=options.prewarm,
        foreign_per_worker=options.foreign_per_worker,
        devices_per_worker=options.devices_per_worker,
        quarantine_deaths=options.quarantine,
        poison_after=options.poison_after,
        hang_limit_s=options.hang_limit,
        metrics=options.metrics,
        event_listeners=tuple(options.event_listener),
        **extra,
    )
    if options.check:
        return say_what_this_is(settings)
    return Service(settings).run()


def say_what_this_is(settings: Settings) -> int:
    """One line of JSON: this release can be loaded, takes these options, and reads that state.db.

    Raises:
        StateError: state.db is of a newer release, or none of ours.
    """
    from obdsup.state.journal import LAYOUT_VERSION
    from obdsup.state.messages import announcement
    from obdsup.state.migrations import SCHEMA_VERSION, check_version

    path = settings.state_dir / "state.db"
    if path.exists():
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
            check_version(database, str(path))
    found = {
        "version": obdsup.__version__,
        "schema": SCHEMA_VERSION,
        "journal": LAYOUT_VERSION,
        **announcement(),
    }
    print(json.dumps(found), flush=True)  # the end of the process flushes nothing
    return 0


def _come_first() -> None:
    """Before any thread is started: they inherit it. Without the privilege it is slower on a busy
    host, no more."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, NICE)
        if os.getsid(0) == os.getpid():  # where sessions share the processor, see sched(7)
            Path("/proc/self/autogroup").write_text(str(NICE))


def main() -> None:
    """Entry point: the only place that exits."""
    options = parse_arguments(sys.argv[1:])
    from obdsup.supervisor.event_log import start_logging

    sys.setswitchinterval(SWITCH_INTERVAL_S)
    _come_first()
    listener = start_logging(getattr(logging, options.log_level.upper()))
    try:
        code = run(options)
    except ObdError as error:
        logging.getLogger("obdsup").error("supervisor.failed %s", error)
        code = error.exit_code
    listener.stop()
    # Not sys.exit: a thread that is blocked in a provider must not keep the lock.
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
