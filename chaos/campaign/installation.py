"""An installation of a campaign's own: folders, a supervisor with standbys, and its taking down."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from chaos.campaign.stage import StageOptions
from chaos.faults.base import Need
from chaos.faults.quarantine import QUARANTINE_DEATHS
from chaos.rig import hooked
from chaos.rig.failpoints import FailPoints
from chaos.rig.node import Node, wait_until
from chaos.rig.own_folders import OwnFolders
from chaos.rig.problem import say

__all__ = ["Installation", "is_guest", "offered"]

HANG_LIMIT_S = 2.0  # well above the longest pause a fault makes that is none
HANG_LIMIT_GUEST_S = 10.0  # emulated


@dataclass(frozen=True, slots=True)
class Installation:
    """One supervisor in folders of this process's own; ``name`` is in the folders' names."""

    node: Node
    scratch: Path  # on a disk, outside of what is tested; gone after the campaign
    failpoints: FailPoints | None  # of a build with test hooks

    @classmethod
    def build(cls, stack: ExitStack, options: StageOptions) -> Installation:
        """Makes the folders, starts the supervisor, and returns when it answers.

        What it put up is taken down by ``stack``; its logs are kept.

        Raises:
            RigError: the supervisor does not answer, or the build with hooks fails.
        """
        python_path = hooked.build() if options.has_hooks else None
        folders = OwnFolders.make("chaos")
        scratch = Path(tempfile.mkdtemp(prefix=f"{folders.state.name}-", dir=folders.state.parent))
        failpoints = FailPoints.create(scratch / "failpoints") if options.has_hooks else None
        node = Node(
            folders.run,
            folders.state,
            options.provider,
            options.patience_s,
            standbys=options.standbys,
            python_path=python_path,
            environment=failpoints.environment if failpoints else None,
            options=[
                "--hang-limit", str(HANG_LIMIT_GUEST_S if is_guest() else HANG_LIMIT_S),
                "--quarantine", str(QUARANTINE_DEATHS),
            ],
        )  # fmt: skip
        stack.callback(shutil.rmtree, scratch, ignore_errors=True)
        stack.callback(node.clean_up)
        stack.callback(folders.keep_logs, options.log_folder)
        say(f"supervisor: start, provider {options.provider}, {options.standbys} standbys")
        node.start_supervisor()
        wait_until(node.is_answering, options.patience_s, "an answer of the supervisor")
        return cls(node, scratch, failpoints)


def is_guest() -> bool:
    """Whether this is the QEMU guest: it runs nothing but the campaign."""
    return "GUEST_RESULT" in os.environ


def offered(provider: str, *, has_hooks: bool, is_guest: bool) -> frozenset[Need]:
    """What a campaign with this provider on this machine offers to faults."""
    offers = {Need.SUPERVISED}
    if os.geteuid() == 0:
        offers.add(Need.ROOT)
    if provider != "load":
        offers.add(Need.BLOCK_DEVICE)
    if has_hooks:
        offers.add(Need.HOOKS)
    if is_guest:
        offers.add(Need.CLOCK)
    return frozenset(offers)
