"""A campaign in the QEMU guest: the same command there, its result brought back."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path

from chaos.campaign.outcome import CampaignOutcome
from chaos.campaign.request import DEFAULT_KILLS, campaign_name, replay_command
from chaos.campaign.store import load_outcomes, records_path
from chaos.rig.image import CACHE
from chaos.rig.problem import REPO, RigError, say
from chaos.workloads import catalogue
from chaos.workloads.ground import Runtime

__all__ = ["run_away"]

MEMORY = "3G"
BOOT_AND_CHECK_S = 1500  # emulation is slow, on a machine that does other things slower still
PER_KILL_S = 30
PAUSE_S = 0.1  # between a client's operations, unless asked for otherwise
PATIENCE_S = 300.0


def run_away(options: argparse.Namespace, outcome: CampaignOutcome) -> CampaignOutcome:
    """Boots the guest, runs the campaign in it and returns what it found.

    Args:
        outcome: what is returned, with the failure noted, when the guest brings nothing back.

    Raises:
        RigError: what the workloads need can not be had.
        KeyboardInterrupt: interrupted; the guest is gone, and with it what it found.
    """
    json_path: Path = options.json.parent.absolute() / f"chaos-{campaign_name(options)}.json"
    for old in (json_path, records_path(json_path)):
        old.unlink(missing_ok=True)
    # The guest has no network, and a question to apt would take it a minute.
    names = [name for name in options.workloads.split(",") if name in catalogue.CATALOGUE]
    catalogue.prepare(names, CACHE, Runtime(options.runtime))
    command = _guest_command(options, json_path)
    say(f"campaign {outcome.name}: in the guest (emulated, slow): {outcome.command}")
    process = subprocess.Popen(command, cwd=REPO, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        code = process.wait()
    except KeyboardInterrupt:
        process.wait()  # it got the same Ctrl-C and ends its QEMU
        raise
    try:
        found = load_outcomes(json_path)[-1]
    except RigError as error:
        outcome.failure = f"the guest (exit {code}) brought no result back: {error}"
        return outcome
    found.name, found.command, found.where = outcome.name, replay_command(options), "guest"
    return found


def _guest_command(options: argparse.Namespace, json_path: Path) -> list[str]:
    length_s = options.seconds or (options.kills or DEFAULT_KILLS) * PER_KILL_S
    run = [sys.executable, "-m", "guest", "run", "--kernel", options.kernel, "--memory", MEMORY]
    run += ["--timeout", str(int(length_s) + BOOT_AND_CHECK_S)]
    for path in (json_path, records_path(json_path), json_path.parent / "chaos-logs"):
        run += ["--copy-back", str(path)]
    inside = shlex.split(replay_command(options))[2:]  # without "obdsup-chaos run"
    inside[inside.index("--where") + 1] = "host"
    if not options.pause:
        inside += ["--pause", str(PAUSE_S)]
    inside += ["--patience", str(max(options.patience, PATIENCE_S)), "--no-report"]
    inside += ["--json", str(json_path)]
    return [*run, "--", sys.executable, "-m", "chaos.campaign", "run", *inside]
