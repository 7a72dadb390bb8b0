"""A campaign on this machine: from the options to an outcome."""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Iterable

from chaos.campaign.block_stage import build_block_stage
from chaos.campaign.course import Campaign, run_campaign
from chaos.campaign.external import ExternalKill, build_external_stage
from chaos.campaign.installation import is_guest, offered
from chaos.campaign.interruption import Interruption
from chaos.campaign.outcome import CampaignOutcome
from chaos.campaign.plan import FaultShare, PlannedFault, endless_plan, make_plan, overlapping
from chaos.campaign.request import DEFAULT_KILLS, campaign_name, replay_command
from chaos.campaign.ring_stage import DEFAULT_DEVICES, build_ring_stage
from chaos.campaign.stage import ExternalCommands, StageBuilder, StageOptions
from chaos.campaign.view import View
from chaos.faults.catalogue import CatalogEntry, Overlap, entries, missing_needs
from chaos.rig.problem import RigError, run, say, venv_program
from chaos.workloads.catalogue import CATALOGUE as WORKLOADS

__all__ = ["new_outcome", "run_here"]

STAGES: dict[str, StageBuilder] = {
    "load": build_ring_stage,
    "fuse": build_block_stage,
    "tcmu": build_block_stage,
}
STANDBYS = {"load": 4, "fuse": 2, "tcmu": 3}


def run_here(
    options: argparse.Namespace, outcome: CampaignOutcome, interruption: Interruption
) -> None:
    """Runs the campaign that the options ask for; the seed must be chosen.

    Raises:
        ValueError: options that make no campaign; says which.
        KeyboardInterrupt: interrupted, everything taken down, ``outcome`` filled as far as it came.
    """
    _check_workloads(options)
    chosen = _external_faults(options) or _chosen_faults(options)
    shares = [FaultShare(entry.fault.kind, entry.weight, entry.is_kill) for entry in chosen]
    stage = _stage_options(options)
    device_cnt = stage.device_cnt or len(stage.workloads) or DEFAULT_DEVICES
    plan, count = _plan(options, shares, device_cnt)
    if options.overlap:
        plan = overlapping(plan, options.seed, options.overlap, *_overlapping_kinds(chosen))
    outcome.seed = options.seed
    outcome.where = "guest" if is_guest() else "host"
    outcome.kernel = os.uname().release
    outcome.versions = _versions()
    outcome.planned_kinds = tuple(share.kind for share in shares)
    say(f"campaign {outcome.name}: {outcome.command}")
    campaign = Campaign(
        build=STAGES[options.provider] if stage.external is None else build_external_stage,
        stage=stage,
        plan=plan,
        planned_cnt=count,
        seconds=options.seconds,
        faults={entry.fault.kind: entry.fault for entry in chosen},
        is_guest=is_guest(),
        interruption=interruption,
    )
    with View() as view:
        run_campaign(campaign, outcome, view)


def new_outcome(options: argparse.Namespace) -> CampaignOutcome:
    """An outcome with nothing in it yet but what was asked for."""
    return CampaignOutcome(
        name=campaign_name(options),
        provider="external" if options.external_device else options.provider,
        where=options.where,
        seed=options.seed,
        command=replay_command(options),
    )


def _check_workloads(options: argparse.Namespace) -> None:
    names = [name for name in options.workloads.split(",") if name]
    unknown = [name for name in names if name not in WORKLOADS]
    if unknown:
        known = ", ".join(WORKLOADS)
        raise ValueError(f"no workload is called {unknown[0]!r}; there are {known}")
    if options.provider == "load" and names and options.external_device is None:
        raise ValueError("--workloads are for block devices: give --provider fuse or tcmu")
    if options.provider != "load" and not names:
        raise ValueError(f"--provider {options.provider} needs --workloads: see `list`")


def _external_faults(options: argparse.Namespace) -> list[CatalogEntry]:
    """The one fault there is for a device of somebody else; none for ours."""
    if options.external_device is None and not options.external_kill:
        return []
    if options.external_device is None or not options.external_kill:
        raise ValueError("--external-device and --external-kill belong together")
    if len(options.workloads.split(",")) != 1 or not options.workloads:
        raise ValueError("--external-device takes one of --workloads, such as sectors")
    if options.faults != ExternalKill.kind:
        raise ValueError(f"with --external-kill the only fault is {ExternalKill.kind}")
    return [CatalogEntry(ExternalKill(), 1, is_kill=True)]


def _chosen_faults(options: argparse.Namespace) -> list[CatalogEntry]:
    names = [name for name in options.faults.split(",") if name]
    offers = offered(options.provider, has_hooks=options.hooks, is_guest=is_guest())
    chosen = []
    for entry in entries(names):
        missing = missing_needs(entry, options.provider, offers)
        if not missing:
            chosen.append(entry)
        elif entry.fault.kind in names:
            raise ValueError(f"{entry.fault.kind} can not be inflicted here: {missing[0]}")
    if not chosen:
        raise ValueError("no fault is left to be inflicted")
    return chosen


def _overlapping_kinds(chosen: list[CatalogEntry]) -> tuple[set[str], set[str]]:
    """During which another fault may strike, and which may strike then.

    Raises:
        ValueError: none.
    """
    below = {entry.fault.kind for entry in chosen if entry.overlap is not Overlap.NEVER}
    on_top = {entry.fault.kind for entry in chosen if entry.overlap is Overlap.BOTH}
    if not on_top:
        raise ValueError("--overlap: none of the faults can strike on top of another one")
    return below, on_top


def _plan(
    options: argparse.Namespace, shares: list[FaultShare], device_cnt: int
) -> tuple[Iterable[PlannedFault], int]:
    if options.seconds is not None:
        return endless_plan(options.seed, shares, device_cnt), 0
    plan = make_plan(options.seed, shares, options.kills or DEFAULT_KILLS, device_cnt)
    return plan, len(plan)


def _stage_options(options: argparse.Namespace) -> StageOptions:
    return StageOptions(
        provider=options.provider,
        seed=options.seed,
        device_cnt=options.devices,
        standbys=options.standbys or STANDBYS[options.provider],
        workloads=tuple(name for name in options.workloads.split(",") if name),
        runtime=options.runtime,
        pause_s=options.pause,
        patience_s=options.patience,
        has_hooks=options.hooks,
        external=_external_commands(options),
        log_folder=options.json.parent / "chaos-logs" / campaign_name(options),
    )


def _external_commands(options: argparse.Namespace) -> ExternalCommands | None:
    if options.external_device is None:
        return None
    return ExternalCommands(options.external_start, options.external_kill, options.external_device)


def _versions() -> dict[str, str]:
    """What was tested and by what; a tool that is missing is left out."""
    found = {"python": platform.python_version()}
    tools = {
        "obdsup": [venv_program("obdsup"), "--version"],
        "runc": ["runc", "--version"],
        "containerd": ["containerd", "--version"],
        "fio": ["fio", "--version"],
    }
    for name, command in tools.items():
        try:
            found[name] = run(command, what=name, timeout_s=30).splitlines()[0].strip()
        except (RigError, IndexError):
            continue
    return found
