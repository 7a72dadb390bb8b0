"""A stage without processes: a standby is always warm, workloads and faults do as they are told."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from chaos.campaign.course import Campaign
from chaos.campaign.interruption import Interruption
from chaos.campaign.outcome import FaultOutcome
from chaos.campaign.plan import PlannedFault
from chaos.campaign.stage import LoadedDevice, Stage, StageOptions
from chaos.faults.base import Fault, Landing, Need, Site, TargetDevice
from chaos.rig.counters import Counters
from chaos.rig.latency import LatencySlice, Operation
from chaos.rig.problem import RigError
from chaos.workloads.base import Findings

MS = 1_000_000
LONG_MS = 600_000


class FakeNode:
    """What a course asks of a node."""

    def has_standby(self) -> bool:
        return True

    def log_end(self) -> str:
        return "the supervisor's last words"


class FakeJournal:
    """Counters of a device that completed a hundred commands."""

    def read(self) -> Counters:
        return Counters(1, 1, 1, 0, 100, 0, 0, 0)


@dataclass
class FakeWorkload:
    """Notes what is done with it; one operation lasts from the start on for ``LONG_MS``."""

    name: str = "fake"
    findings: Findings = field(default_factory=Findings)
    done: list[str] = field(default_factory=list)
    begun_ns: int = 0
    fails_in: str = ""

    def start(self) -> None:
        self._do("start")
        self.begun_ns = time.monotonic_ns()

    def operations(self) -> int:
        return 7

    def slices(self) -> Sequence[LatencySlice]:
        now_ns = time.monotonic_ns()
        worst = Operation(self.begun_ns, self.begun_ns + LONG_MS * MS)
        return [LatencySlice(now_ns, 7, LONG_MS * MS, worst)]

    def stop(self) -> None:
        self._do("stop")

    def verify(self) -> Findings:
        self._do("verify")
        return self.findings

    def close(self) -> None:
        self.done.append("close")

    def _do(self, step: str) -> None:
        self.done.append(step)
        if step == self.fails_in:
            raise RigError(f"{step} failed")


@dataclass
class FakeFault:
    """Lands, unless told otherwise; ``act`` is called each time."""

    kind: str = "fake-kill"
    about: str = "nothing is done"
    needs: frozenset[Need] = frozenset()
    has_landed: bool = True
    wrong: tuple[str, ...] = ()
    act: Callable[[Site, random.Random], None] = lambda site, chance: None
    numbers: list[float] = field(default_factory=list)
    devices: list[str] = field(default_factory=list)

    def inflict(self, site: Site, chance: random.Random) -> Landing:
        self.numbers.append(chance.random())
        self.devices.append(site.device.name)
        begun_ns = time.monotonic_ns()
        self.act(site, chance)
        return Landing(
            begun_ns, time.monotonic_ns(), self.has_landed, "by its word", recovered=2,
            wrong=self.wrong, workers_killed=1,
        )  # fmt: skip


class FakeWatcher:
    """Remembers what it was shown."""

    def __init__(self) -> None:
        self.seen: list[FaultOutcome] = []
        self.has_ended = False

    def began(self, campaign: Campaign, stage: Stage, outcome: object) -> None:
        assert stage.loads

    def inflicted(self, fault: FaultOutcome) -> None:
        self.seen.append(fault)

    def ended(self) -> None:
        self.has_ended = True


class FakeStage:
    """Builds a stage over these workloads, and knows whether it was taken down."""

    def __init__(self, folder: Path, *workloads: FakeWorkload) -> None:
        self.workloads = workloads
        self.is_up = False
        self.interruption = Interruption()
        self.nodes: list[Path | None] = [None] * len(workloads)  # block devices
        self._folder = folder

    def __call__(self, options: StageOptions, stack: ExitStack) -> Stage:
        self.is_up = True
        stack.callback(self._take_down)
        stage = Stage(FakeNode(), self._folder)  # type: ignore[arg-type]
        for number, workload in enumerate(self.workloads):
            target = TargetDevice(
                f"d{number}", FakeJournal(), self.nodes[number], (), None, None,  # type: ignore[arg-type]
            )  # fmt: skip
            stage.loads.append(LoadedDevice(target, workload))
        return stage

    def campaign(self, plan: Iterable[PlannedFault], *faults: Fault) -> Campaign:
        options = StageOptions("load", 1, 0, 1, (), "runc", 0.0, 5.0, self._folder)
        return Campaign(
            build=self, stage=options, plan=plan, planned_cnt=0, seconds=None,
            faults={fault.kind: fault for fault in faults}, is_guest=False,
            interruption=self.interruption,
        )  # fmt: skip

    def _take_down(self) -> None:
        self.is_up = False
