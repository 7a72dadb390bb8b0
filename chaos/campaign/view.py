"""What is seen of a campaign while it runs: a live table on a terminal, lines in a pipe."""

from __future__ import annotations

import threading
import time
from collections import Counter
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from chaos.campaign.course import Campaign
from chaos.campaign.installation import is_guest
from chaos.campaign.outcome import CampaignOutcome, FaultOutcome
from chaos.campaign.stage import Stage
from chaos.rig.problem import say

__all__ = ["View"]

LINE_EVERY_S = 5.0
REDRAW_PER_S = 2
LAST_FAULTS = 6


class View:
    """See ``course.Watcher``. A thread of its own shows; nothing it does holds the campaign up."""

    def __init__(self, console: Console | None = None) -> None:
        # the terminal of the guest is a serial line; who looks at it is known outside
        self._console = console or Console(force_terminal=False if is_guest() else None)
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._campaign: Campaign | None = None
        self._stage: Stage | None = None
        self._outcome: CampaignOutcome | None = None
        self._rates: dict[str, tuple[float, int]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.ended()

    def began(self, campaign: Campaign, stage: Stage, outcome: CampaignOutcome) -> None:
        self._campaign, self._stage, self._outcome = campaign, stage, outcome
        show = self._show_live if self._console.is_terminal else self._show_lines
        self._thread = threading.Thread(target=show, name="view", daemon=True)
        self._thread.start()

    def inflicted(self, fault: FaultOutcome) -> None:
        """Nothing: the thread looks at the outcome when it shows."""

    def ended(self) -> None:
        """Fine to call again."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _show_lines(self) -> None:
        while not self._over.wait(LINE_EVERY_S):
            say(self._line())
        say(self._line())

    def _show_live(self) -> None:
        with Live(
            get_renderable=self._table, console=self._console, refresh_per_second=REDRAW_PER_S
        ):
            self._over.wait()

    def _line(self) -> str:
        assert self._outcome is not None
        faults = list(self._outcome.faults)
        kinds = Counter(fault.kind for fault in faults)
        worst_ms = max((f.served_ns - f.begun_ns for f in faults), default=0) / 1e6
        shown = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common(4))
        rates = ", ".join(f"{name} {rate:,.0f}/s" for name, rate in self._rates_now())
        return (
            f"{self._elapsed_s():6.0f} s  faults {self._progress(faults)} ({shown})  "
            f"recovered {self._outcome.in_flight_recovered()}  worst {worst_ms:.0f} ms  {rates}"
        )

    def _table(self) -> Group:
        assert self._outcome is not None
        faults = list(self._outcome.faults)
        head = Text(
            f"{self._outcome.name}  seed {self._outcome.seed}  {self._elapsed_s():.0f} s  "
            f"faults {self._progress(faults)}  workers killed {self._outcome.worker_kills()}  "
            f"in flight recovered {self._outcome.in_flight_recovered()}"
        )
        kinds = Table(box=None)
        for column in ("fault", "count", "landed", "recovered", "worst ms"):
            kinds.add_column(column, justify="left" if column == "fault" else "right")
        for kind in sorted({fault.kind for fault in faults}):
            rows = [fault for fault in faults if fault.kind == kind]
            kinds.add_row(
                kind,
                str(len(rows)),
                str(sum(fault.has_landed for fault in rows)),
                str(sum(fault.recovered + fault.already_done for fault in rows)),
                f"{max(fault.served_ns - fault.begun_ns for fault in rows) / 1e6:.1f}",
            )
        loads = Text("  ".join(f"{name}: {rate:,.0f}/s" for name, rate in self._rates_now()))
        last = Text("\n".join(_fault_line(fault) for fault in faults[-LAST_FAULTS:]), style="dim")
        return Group(head, kinds, loads, last)

    def _progress(self, faults: list[FaultOutcome]) -> str:
        assert self._campaign is not None
        total = self._campaign.planned_cnt
        return f"{len(faults)}/{total}" if total else str(len(faults))

    def _elapsed_s(self) -> float:
        assert self._outcome is not None
        return time.monotonic() - self._outcome.begun_ns / 1e9

    def _rates_now(self) -> list[tuple[str, float]]:
        """Operations per second of each workload since this was last asked."""
        assert self._stage is not None
        found, now_s = [], time.monotonic()
        for load in self._stage.loads:
            name, count = load.target.name, load.workload.operations()
            then_s, before = self._rates.get(name, (self._begun_s(), 0))
            self._rates[name] = (now_s, count)
            found.append((name, max(count - before, 0) / max(now_s - then_s, 1e-3)))
        return found

    def _begun_s(self) -> float:
        assert self._outcome is not None
        return self._outcome.begun_ns / 1e9


def _fault_line(fault: FaultOutcome) -> str:
    back_ms = (fault.served_ns - fault.begun_ns) / 1e6
    mark = "landed" if fault.has_landed else "missed"
    return f"{fault.kind:18} {fault.device:10} {back_ms:8.1f} ms  {mark}  {fault.evidence}"
