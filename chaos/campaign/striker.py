"""Faults are carried out, alone or two at once, and what came of each is noted."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from dataclasses import replace

from chaos.campaign.kernel_watch import KernelWatch
from chaos.campaign.outcome import FaultOutcome
from chaos.campaign.overlap import shared_out, strike_both
from chaos.campaign.plan import PlannedFault
from chaos.campaign.stage import LoadedDevice, Stage
from chaos.faults.base import Fault, Landing, Site
from chaos.rig.counters import Counters
from chaos.rig.node import wait_until
from chaos.rig.problem import RigError
from chaos.rig.process import Process
from obdsup.errors import ObdError

__all__ = ["Striker"]

PAUSE_SHARE = 1 / 3000  # of the patience: 20 ms between two questions, 100 ms in the guest
BOTH_SHARE = 2.0  # of the patience: each step of a fault has it for itself
GOES_ON_S = 0.05


class Striker:
    """Carries out faults on a stage that is up.

    Args:
        faults: by kind.
        kernel: told what the kernel may say of each.
        patience_s: bound of each step.
    """

    def __init__(
        self, stage: Stage, faults: Mapping[str, Fault], kernel: KernelWatch, patience_s: float
    ) -> None:
        self._stage = stage
        self._faults = faults
        self._kernel = kernel
        self._patience_s = patience_s

    def wait_ready(self) -> None:
        """A fault that strikes before a standby is warm would test the start of one."""
        longest_pause_s = self._patience_s * PAUSE_SHARE
        has_standby = self._stage.node.has_standby
        wait_until(has_standby, self._patience_s, "a warm standby", longest_pause_s)

    def strike(self, planned: PlannedFault, on_top: PlannedFault | None) -> list[FaultOutcome]:
        """One fault, or two at once; returns when all is served again.

        Raises:
            RigError: it is not, or the fault could not be inflicted; says which.
        """
        return [self._inflict(planned)] if on_top is None else self._inflict_both(planned, on_top)

    def _inflict(self, planned: PlannedFault) -> FaultOutcome:
        load = self._load_of(planned)
        try:
            landing = self._carry_out(planned, is_alone=not self._is_crowded())
        except (RigError, ObdError, OSError) as error:
            raise RigError(f"{_place(planned, load)}: {error}; {self._log_end()}") from error
        return self._noted(planned, landing)

    def _inflict_both(self, below: PlannedFault, on_top: PlannedFault) -> list[FaultOutcome]:
        load, stage = self._load_of(below), self._stage
        before = {one.target.name: one.target.journal.read() for one in stage.loads}
        supervisor = stage.node.supervisor()

        def has_struck() -> bool:
            now, then = load.target.journal.read(), before[load.target.name]
            is_owned = now.owner_generation == then.owner_generation and Process.of(now.owner_pid)
            return not is_owned or not supervisor.is_alive()

        try:
            struck = strike_both(
                lambda: self._carry_out(below, is_alone=False),
                lambda: self._carry_out(on_top, is_alone=False),
                has_struck,
                random.Random(on_top.seed ^ below.seed),
                self._patience_s * BOTH_SHARE,
            )
            for one in stage.loads:
                wait_until(
                    lambda one=one: self._goes_on(one),  # type: ignore[misc]
                    self._patience_s,
                    f"commands on {one.target.name}",
                )
        except (RigError, ObdError, OSError) as error:
            place = f"{_place(below, load)}, {_place(on_top, self._load_of(on_top))}"
            raise RigError(f"{place}: {error}; {self._log_end()}") from error
        faults = [self._noted(below, struck.first), self._noted(on_top, struck.second)]
        if struck.has_overlapped:
            names = [f"{fault.kind} on {fault.device}" for fault in faults]
            faults = [replace(f, overlaps=n) for f, n in zip(faults, reversed(names), strict=True)]
        return shared_out(faults, self._recovered_since(before))

    def _is_crowded(self) -> bool:
        """Whether devices share a worker, from which they will be moved in a moment."""
        if len(self._stage.loads) == 1:
            return False
        owners = [load.target.journal.read().owner_pid for load in self._stage.loads]
        return len(set(owners)) < len(owners)

    def _goes_on(self, load: LoadedDevice) -> bool:
        """Whether commands are being completed."""
        before = load.target.journal.read().completed
        time.sleep(GOES_ON_S)
        return load.target.journal.read().completed > before

    def _recovered_since(self, before: dict[str, Counters]) -> int:
        found = 0
        for load in self._stage.loads:
            now, then = load.target.journal.read(), before[load.target.name]
            found += now.recovered + now.already_done - then.recovered - then.already_done
        return max(found, 0)  # a journal that was started over counts anew

    def _load_of(self, planned: PlannedFault) -> LoadedDevice:
        return self._stage.loads[planned.device % len(self._stage.loads)]

    def _carry_out(self, planned: PlannedFault, *, is_alone: bool) -> Landing:
        stage = self._stage
        folder = stage.scratch / ("fault-on-top" if planned.is_on_top else "fault")
        folder.mkdir(exist_ok=True)
        site = Site(
            stage.node,
            self._load_of(planned).target,
            folder,
            self._patience_s,
            stage.failpoints,
            is_alone,
        )
        return self._faults[planned.kind].inflict(site, random.Random(planned.seed))

    def _noted(self, planned: PlannedFault, landing: Landing) -> FaultOutcome:
        if landing.kernel_lines:
            self._kernel.collect(landing.kernel_lines)
        return _fault_outcome(planned.kind, self._load_of(planned), landing)

    def _log_end(self) -> str:
        return f"supervisor: {self._stage.node.log_end()[-500:]}"


def _place(planned: PlannedFault, load: LoadedDevice) -> str:
    return f"fault {planned.number} ({planned.kind} on {load.target.name})"


def _fault_outcome(kind: str, load: LoadedDevice, landing: Landing) -> FaultOutcome:
    return FaultOutcome(
        kind=kind,
        device=load.target.name,
        begun_ns=landing.begun_ns,
        served_ns=landing.served_ns,
        stall_ns=landing.served_ns - landing.begun_ns,  # until the workloads' slices are read
        has_landed=landing.has_landed,
        evidence=landing.evidence,
        recovered=landing.recovered,
        already_done=landing.already_done,
        wrong=landing.wrong,
        workers_killed=landing.workers_killed,
        supervisors_killed=landing.supervisors_killed,
    )
