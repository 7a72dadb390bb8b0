"""The course of a campaign: put the stage up, load it, inflict the plan, verify, take it down.

A first Ctrl-C ends the faults: what was done until then is verified and reported. A second one ends
the verification as well. Whatever was put up is taken down, and what was found is kept.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Protocol

from chaos.campaign.interruption import Interruption
from chaos.campaign.kernel_watch import KernelWatch
from chaos.campaign.outcome import CampaignOutcome, FaultOutcome, WorkloadOutcome
from chaos.campaign.overlap import in_pairs
from chaos.campaign.plan import PlannedFault
from chaos.campaign.stage import LoadedDevice, Stage, StageBuilder, StageOptions
from chaos.campaign.stalls import Stalls
from chaos.campaign.striker import Striker
from chaos.faults.base import Fault
from chaos.rig.counters import Counters
from chaos.rig.problem import RigError, say
from chaos.workloads.base import Findings
from obdsup.errors import ObdError

__all__ = ["Campaign", "Watcher", "run_campaign"]

SETTLE_S = 1.0  # slices of the last fault are written by then
KERNEL_LOG_EVERY = 20  # faults
MOST_REPEATS = 10  # of a kind that has not landed


@dataclass(frozen=True, slots=True)
class Campaign:
    """What is to be done. ``seconds``: the plan is broken off then, None: carried out to its end.

    ``planned_cnt`` is for the progress shown, 0 when the plan has no end.
    """

    build: StageBuilder
    stage: StageOptions
    plan: Iterable[PlannedFault]
    planned_cnt: int
    seconds: float | None
    faults: dict[str, Fault]
    is_guest: bool
    interruption: Interruption


class Watcher(Protocol):
    """Who looks on while it runs; called from the campaign's thread."""

    def began(self, campaign: Campaign, stage: Stage, outcome: CampaignOutcome) -> None: ...
    def inflicted(self, fault: FaultOutcome) -> None: ...
    def ended(self) -> None: ...


def run_campaign(campaign: Campaign, outcome: CampaignOutcome, watcher: Watcher) -> None:
    """Carries a campaign out; ``outcome`` holds what it found, as far as it came.

    Raises:
        KeyboardInterrupt: it was interrupted; everything is taken down and ``outcome`` written.
    """
    is_interrupted = False
    campaign.interruption.allow()
    stack = ExitStack()
    try:
        stage = campaign.build(campaign.stage, stack)
        _Course(campaign, stage, outcome, watcher, stack).run()
    except KeyboardInterrupt:
        is_interrupted = True
    except (RigError, ObdError, OSError) as error:
        outcome.failure = outcome.failure or str(error)
    finally:
        outcome.ended_ns = outcome.ended_ns or time.monotonic_ns()
        with campaign.interruption.put_off():
            _take_down(stack, outcome)
    if is_interrupted:
        outcome.failure = outcome.failure or "interrupted"
        raise KeyboardInterrupt
    campaign.interruption.raise_if_kept()


def _take_down(stack: ExitStack, outcome: CampaignOutcome) -> None:
    try:
        stack.close()
    except (RigError, ObdError, OSError) as error:
        outcome.failure = outcome.failure or str(error)


class _Course:
    """The part between putting the stage up and taking it down."""

    def __init__(
        self,
        campaign: Campaign,
        stage: Stage,
        outcome: CampaignOutcome,
        watcher: Watcher,
        stack: ExitStack,
    ) -> None:
        self._campaign = campaign
        self._stage = stage
        self._outcome = outcome
        self._watcher = watcher
        names = [name for load in stage.loads if (name := _kernel_name(load))]
        self._kernel = KernelWatch(names, is_ours=campaign.is_guest)
        self._striker = Striker(stage, campaign.faults, self._kernel, campaign.stage.patience_s)
        self._pairs: list[tuple[PlannedFault, PlannedFault]] = []
        self._whole: set[str] = set()  # kernel names of devices with nothing wrong on them
        for load in stage.loads:
            stack.callback(load.workload.close)

    def run(self) -> None:
        is_interrupted = False
        for load in self._stage.loads:
            say(f"load: {load.workload.name} on {load.target.name}")
            load.workload.start()
        self._outcome.begun_ns = time.monotonic_ns()
        self._watcher.began(self._campaign, self._stage, self._outcome)
        try:
            self._inflict_all()
        except KeyboardInterrupt:
            is_interrupted = True
            say("interrupted: what was done is verified; once more to leave that out")
            self._campaign.interruption.allow()
        except (RigError, ObdError, OSError) as error:
            self._outcome.failure = str(error)
        finally:
            self._watcher.ended()
        self._outcome.ended_ns = time.monotonic_ns()
        time.sleep(SETTLE_S)
        try:
            self._verify()
        finally:
            self._note_kernel()
        if is_interrupted:
            raise KeyboardInterrupt

    # -- the faults --------------------------------------------------------------------------------
    def _inflict_all(self) -> None:
        begun_s = time.monotonic()
        limit_s = self._campaign.seconds
        for first, on_top in in_pairs(self._campaign.plan):
            if limit_s is not None and time.monotonic() - begun_s > limit_s:
                break
            self._strike(first, on_top)
            if first.number % KERNEL_LOG_EVERY == 0:
                self._kernel.collect()
        self._repeat_missed()
        self._striker.wait_ready()

    def _strike(self, planned: PlannedFault, on_top: PlannedFault | None = None) -> None:
        self._striker.wait_ready()
        time.sleep(planned.pause_s)
        if on_top is not None:
            self._outcome.is_overlapping = True
            self._pairs.append((planned, on_top))
        for fault in self._striker.strike(planned, on_top):
            self._outcome.faults.append(fault)
            self._watcher.inflicted(fault)

    def _repeat_missed(self) -> None:
        """A kind that never landed is tried again: some hit a moment of a millisecond, or miss."""
        struck = {fault.kind for fault in self._outcome.faults}
        for kind in sorted(struck):
            for number in range(MOST_REPEATS):
                if any(f.kind == kind and f.has_landed for f in self._outcome.faults):
                    break
                seed = random.Random(f"{self._outcome.seed}/{kind}/{number}").randrange(1 << 48)
                self._strike(PlannedFault(len(self._outcome.faults), kind, number, seed, 0.0))
        self._repeat_pairs()

    def _repeat_pairs(self) -> None:
        """A first fault may be over before the second one strikes: until one pair overlapped."""
        for number, (below, on_top) in enumerate(self._pairs * MOST_REPEATS):
            if self._outcome.overlapped() or number >= MOST_REPEATS:
                break
            seeds = random.Random(f"{self._outcome.seed}/pair/{number}")
            self._strike(*(replace(f, seed=seeds.randrange(1 << 48)) for f in (below, on_top)))

    # -- the verdict -------------------------------------------------------------------------------
    def _verify(self) -> None:
        """Every workload is stopped and checked, also when one of them can not be."""
        self._outcome.commands = sum(self._completed(load) for load in self._stage.loads)
        failures = []
        for step in (self._stop, self._note_workload, self._check):
            for load in self._stage.loads:
                try:
                    step(load)
                except (RigError, ObdError, OSError) as error:
                    failures.append(f"{load.workload.name} on {load.target.name}: {error}")
            if step == self._note_workload:
                self._note_stalls()
        if failures and not self._outcome.failure:
            self._outcome.failure = "; ".join(failures)

    def _stop(self, load: LoadedDevice) -> None:
        load.workload.stop()

    def _note_workload(self, load: LoadedDevice) -> None:
        self._outcome.workloads.append(
            WorkloadOutcome(
                load.workload.name,
                load.target.name,
                load.workload.operations(),
                list(load.workload.slices()),
            )
        )

    def _check(self, load: LoadedDevice) -> None:
        findings = Findings()
        counters = self._counters(load)
        if counters is not None and counters.medium_errors:
            line = f"{load.target.name}: {counters.medium_errors} commands ended in MEDIUM ERROR"
            findings.io_errors.append(line)
        say(f"verify: {load.workload.name} on {load.target.name}")
        try:
            findings.add(load.workload.verify())
            if findings.is_clean:
                self._whole.add(_kernel_name(load))
        finally:
            self._outcome.findings.add(findings)

    def _completed(self, load: LoadedDevice) -> int:
        counters = self._counters(load)
        return counters.completed if counters is not None else load.workload.operations()

    def _counters(self, load: LoadedDevice) -> Counters | None:
        """The journal's; None for a device of somebody else, which has none."""
        try:
            return load.target.journal.read()
        except OSError:
            return None

    def _note_stalls(self) -> None:
        """Faults of one device count where it is; those of all for every workload."""
        by_device = {load.device: Stalls(load.slices) for load in self._outcome.workloads}
        self._outcome.faults = [
            replace(fault, stall_ns=_stall_ns(by_device, fault)) for fault in self._outcome.faults
        ]

    def _note_kernel(self) -> None:
        self._kernel.collect()
        self._kernel.settle(self._whole)
        self._outcome.kernel_complaints = self._kernel.complaints
        self._outcome.kernel_false_alarms = self._kernel.false_alarms
        self._outcome.kernel_log = self._kernel.verdict()


def _kernel_name(load: LoadedDevice) -> str:
    """Such as ``loop3``; empty for a device without a block device."""
    node = load.target.block_device
    return node.resolve().name if node is not None else ""


def _stall_ns(by_device: dict[str, Stalls], fault: FaultOutcome) -> int:
    """A fault that killed the workers of all devices, or a supervisor, is felt anywhere."""
    is_felt_by_all = fault.workers_killed > 1 or fault.supervisors_killed > 0
    felt = by_device.values() if is_felt_by_all else [by_device[fault.device]]
    return max(stalls.longest_ns(fault.begun_ns, fault.served_ns) for stalls in felt)
