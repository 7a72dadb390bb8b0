"""Many devices under light loads, one supervisor: where the figures of whole fleets are taken."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from chaos.rig.blank_image import BlankImage
from chaos.rig.counters import Counters, DeviceJournal
from chaos.rig.node import Node, wait_until
from chaos.rig.own_folders import OwnFolders
from chaos.rig.problem import RigError
from chaos.rig.process import Process

__all__ = ["FleetRig"]

SIZE_BYTES = 16 * 1024 * 1024
CREATES_AT_ONCE = 4
CALM_S = 900.0  # a crowd is spread out one hand-over at a time: about a second each when it is busy
_ZEROS = ("errors", "lost", "stale", "misplaced")


class FleetRig:
    """A supervisor with ``count`` devices, each a worker and a generator that checks its reads.

    Args:
        count: devices.
        load_options: of every generator, as on the command line of `obdsup-ringd load`.
        options: further ones of the supervisor.
        patience_s: bound of each step.
    """

    def __init__(
        self, count: int, load_options: str, options: tuple[str, ...] = (), patience_s: float = 120
    ) -> None:
        self.names = [f"d{number:03}" for number in range(count)]
        self._load_options = load_options
        self._options = options
        self._patience_s = patience_s
        self._stack = ExitStack()
        self.commands = 0  # that were checked, once the rig was left

    def __enter__(self) -> Self:
        with self._stack:  # takes down what was put up if a step fails
            folders = OwnFolders.make("fleet")
            run_dir, state_dir = folders.run, folders.state
            self.node = Node(run_dir, state_dir, "load", self._patience_s, options=self._options)
            self._stack.callback(self.node.clean_up)
            self._journals = {name: DeviceJournal(run_dir, name) for name in self.names}
            self._create(run_dir, state_dir)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._stack:
            if error is None:
                self._finish()

    def counters(self) -> dict[str, Counters]:
        """The journal's counters of every device, read in place."""
        return {name: journal.read() for name, journal in self._journals.items()}

    def workers(self) -> dict[str, Process]:
        """The serving process of every device.

        Raises:
            RigError: one is not served.
        """
        found = {}
        for name, counters in self.counters().items():
            process = Process.of(counters.owner_pid)
            if process is None:
                raise RigError(f"device {name} is served by nobody")
            found[name] = process
        return found

    def wait_calm(self) -> None:
        """Waits until every device has a worker of its own again and a standby is warm.

        Raises:
            RigError: not within the bound.
        """
        wait_until(self._is_calm, CALM_S, "a worker for each device, and a warm standby")

    def _is_calm(self) -> bool:
        pids = {counters.owner_pid for counters in self.counters().values()}
        return len(pids) == len(self.names) and 0 not in pids and self.node.has_standby()

    def _create(self, run_dir: Path, state_dir: Path) -> None:
        rings = run_dir / "rings"
        rings.mkdir(mode=0o700, parents=True)
        (rings / "load.options").write_text(self._load_options)
        self.node.start_supervisor()
        wait_until(self.node.is_answering, self._patience_s, "an answer of the supervisor")
        with ThreadPoolExecutor(CREATES_AT_ONCE) as pool:
            list(pool.map(lambda name: self._create_one(state_dir, name), self.names))
        for name in self.names:
            journal = self._journals[name]
            wait_until(
                lambda journal=journal: journal.read().completed > 0,  # type: ignore[misc]
                self._patience_s,
                f"first commands of {name}",
            )
        self.wait_calm()

    def _create_one(self, state_dir: Path, name: str) -> None:
        config = str(BlankImage.make(self.node, state_dir, name, SIZE_BYTES).config)
        self.node.ask("device.create", name=name, image=config, writable=True, provider="load")

    def _finish(self) -> None:
        """Ends the loads, which read everything back, and demands their verdicts.

        Raises:
            RigError: a generator found something wrong.
        """
        with ThreadPoolExecutor(CREATES_AT_ONCE) as pool:
            list(pool.map(lambda name: self.node.ask("device.remove", name=name), self.names))
        for name in self.names:
            path = self.node.run_dir / "rings" / f"{name}.json"
            report: dict[str, Any] = json.loads(path.read_text())
            wrong = {key: report[key] for key in _ZEROS if report[key]}
            if wrong or report.get("broken"):
                raise RigError(f"{name}: the checker found {wrong}, broken: {report.get('broken')}")
            self.commands += report["commands"]
