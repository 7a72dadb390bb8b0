"""``obdsup-worker --id ID --socket PATH [--log PATH]``: serves rings until told to stop.

Exit codes: 0 stopped or drained, 2 wrong usage, else those of obdsup/errors.py.
"""

from __future__ import annotations

import os
import sys

from obdsup.worker import process

USAGE = "usage: obdsup-worker --id ID --socket PATH [--log PATH]\n"


def parse_arguments(arguments: list[str]) -> dict[str, str] | None:
    """``{"id": ..., "socket": ..., "log": ...}``, or None when they are wrong."""
    values: dict[str, str] = {}
    words = iter(arguments)
    for word in words:
        key, has_value, value = word.partition("=")
        if key not in ("--id", "--socket", "--log"):
            return None
        given = value if has_value else next(words, None)
        if not given:
            return None
        values[key[2:]] = given
    return values if {"id", "socket"} <= values.keys() else None


def redirect(log_path: str | None) -> None:
    """No terminal: stdin and stdout are /dev/null, stderr is the log when one is given."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    if log_path is not None:
        log_fd = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        os.dup2(log_fd, 2)
        os.close(log_fd)


def main() -> None:
    """Runs the worker and ends the process."""
    values = parse_arguments(sys.argv[1:])
    if values is None:
        sys.stderr.write(USAGE)
        sys.exit(2)
    process.relaunch_lean()
    redirect(values.get("log"))

    from obdsup.errors import ObdError
    from obdsup.worker import log
    from obdsup.worker.loop import Loop

    try:
        process.raise_fd_limit()
        process.protect()
        process.confine()
        code = Loop(values["id"], os.path.abspath(values["socket"])).run()
    except ObdError as error:
        log.event("worker.failed", log.ERROR, id=values["id"], reason=error)
        code = error.exit_code
    except Exception:  # noqa: BLE001 - a bug: loudly, and without waiting for any thread
        sys.excepthook(*sys.exc_info())
        code = 1
    # Not sys.exit: a thread that sleeps in the kernel must not keep a stopped worker alive, and
    # every lock and fd dies with the process.
    os._exit(code)


if __name__ == "__main__":
    main()
