"""Runs the real supervisor with fake rings: the providers are the only thing replaced."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from pathlib import Path

from obdsup.errors import ObdError
from obdsup.supervisor.event_log import start_logging
from obdsup.supervisor.provider import Providers
from obdsup.supervisor.service import Service
from obdsup.supervisor.settings import Settings
from tests.supervisor.fake_provider import FakeProvider


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--standbys", type=int, default=1)
    parser.add_argument("--serve-timeout-s", type=float, default=10.0)
    parser.add_argument("--event-listener", action="append", default=[])
    parser.add_argument("--metrics", default="")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--stop-timeout-s", type=float, default=10.0)
    parser.add_argument("--quarantine-deaths", type=int, default=20)
    options = parser.parse_args()
    if options.check:
        print(json.dumps({"version": "0"}))
        sys.exit(0)
    listener = start_logging(logging.INFO)
    worker = str(Path(__file__).with_name("fake_worker.py"))
    settings = Settings(
        run_dir=options.root / "run",
        state_dir=options.root / "state",
        provider="fuse",
        standbys=options.standbys,
        worker_command=(sys.executable, worker),
        image_command=(sys.executable, str(Path(__file__).with_name("fake_image_command.py"))),
        serve_timeout_s=options.serve_timeout_s,
        quarantine_deaths=options.quarantine_deaths,
        stop_timeout_s=options.stop_timeout_s,
        hello_timeout_s=1.0,
        drain_timeout_s=2.0,
        event_listeners=tuple(options.event_listener),
        metrics=options.metrics,
    )
    sys.setswitchinterval(0.0005)
    try:
        providers = Providers(settings.run_dir / "rings", {"fuse": FakeProvider})
        code = Service(settings, providers).run()
    except ObdError as error:
        print(f"supervisor.failed {error}", file=sys.stderr)
        code = error.exit_code
    listener.stop()
    os._exit(code)


if __name__ == "__main__":
    main()
