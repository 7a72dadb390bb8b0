"""An installation with test hooks and planted faults, under a load that checks every read."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from chaos.planted.bugs import Bug
from chaos.planted.generator import Generator
from chaos.rig import hooked
from chaos.rig.blank_image import BlankImage
from chaos.rig.counters import DeviceJournal
from chaos.rig.failpoints import FailPoints
from chaos.rig.kills import Killer
from chaos.rig.node import Node, wait_until
from chaos.rig.own_folders import OwnFolders
from chaos.rig.problem import RigError

__all__ = ["PlantedRig"]

SIZE_BYTES = 64 << 20
_NAMES = ("first", "second")


class PlantedRig:
    """Put up by ``with``, taken down whatever happens. Faults are aimed at the first device.

    Args:
        bug: what is planted, and the load.
        seed: of the load and of the planted fault.
        upper_folder: where writable layers lie; None: with the rest of the state.
        patience_s: bound of each step.
    """

    def __init__(
        self, bug: Bug, seed: int, *, upper_folder: Path | None = None, patience_s: float = 20.0
    ) -> None:
        self.devices = _NAMES[: bug.devices]
        self._bug = bug
        self._seed = seed
        self._upper_folder = upper_folder
        self._patience_s = patience_s
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        python_path = hooked.build()
        with self._stack:  # takes down what was put up if a step fails
            folders = OwnFolders.make("planted")
            run_dir, self.state_dir = folders.run, folders.state
            self.points = FailPoints.create(run_dir / "failpoints")
            self._stack.callback(self.points.close)
            planted = {"OBDSUP_PLANTED": self._bug.planted, "OBDSUP_PLANTED_SEED": str(self._seed)}
            self.node = Node(
                run_dir,
                self.state_dir,
                "load",
                self._patience_s,
                python_path=python_path,
                environment={**self.points.environment, **planted},
            )
            self._stack.callback(self._clean_up)
            self.rings = run_dir / "rings"
            self.rings.mkdir(mode=0o700)
            self.journal = DeviceJournal(run_dir, self.devices[0])
            self.generators = [Generator(self.rings, name) for name in self.devices]
            self.killer = Killer(self.node, self.journal.read, wait_until, self._patience_s)
            self.node.start_supervisor()
            wait_until(self.node.is_answering, self._patience_s, "an answer of the supervisor")
            for number, name in enumerate(self.devices):
                self._create(name, self._seed + number)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._stack:
            for generator in self.generators:
                generator.abandon()

    def commands(self) -> int:
        """Commands completed on all devices."""
        return sum(int(each.stat().get("completed", "0")) for each in self.generators)

    def in_flight(self) -> int:
        """Commands that wait for a worker on all devices."""
        return sum(int(each.stat().get("in_flight", "0")) for each in self.generators)

    def findings(self) -> dict[str, int]:
        """What the generators found so far, by kind; empty when all is well."""
        found: Counter[str] = Counter()
        for generator in self.generators:
            found.update(generator.findings())
        return dict(found)

    def finish(self) -> tuple[dict[str, int], list[str]]:
        """Ends the load and has everything read back: what was found, by kind, and lines about it.

        Raises:
            RigError: a device can not be removed.
        """
        found: Counter[str] = Counter()
        lines = []
        for generator in self.generators:
            self.node.remove_device(generator.device)
            counts, told = generator.report()
            found.update(counts)
            lines += told
        return dict(found), lines

    def why_reset(self) -> str:
        """What the supervisor said when it did not trust a journal; "" when it always did."""
        lines = (self.node.run_dir / "supervisor.log").read_text(errors="replace").splitlines()
        return next((line for line in lines if "ring.reset" in line), "")

    def upper_files(self, device: str) -> tuple[Path, Path]:
        """Data and index file of the device's writable layer."""
        folder = self._upper_folder or self.state_dir
        return folder / f"{device}.data", folder / f"{device}.index"

    def _clean_up(self) -> None:
        try:
            self.node.clean_up()
        except RigError:  # a killed process that waits for a busy disk ends when the disk answers
            self.node.clean_up()

    def _create(self, name: str, seed: int) -> None:
        journal = self.node.run_dir / "devices" / name / "inflight"
        (self.rings / f"{name}.options").write_text(
            f"{self._bug.load} --seed {seed} --journal {journal}"
        )
        image = BlankImage.make(self.node, self.state_dir, name, SIZE_BYTES, self._upper_folder)
        self.node.obdsup("device", "create", name, "--image", str(image.config), "--writable")
