"""One device under ringd's load front end, in folders of its own, taken down whatever happens."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from chaos.rig.blank_image import BlankImage
from chaos.rig.counters import DeviceJournal
from chaos.rig.kills import Killer
from chaos.rig.node import Node, wait_until
from chaos.rig.own_folders import OwnFolders
from chaos.rig.problem import RigError
from chaos.stall.prior_writes import append_history
from chaos.stall.ring_gaps import RingGaps

__all__ = ["DEVICE", "LoadRig"]

DEVICE = "load"
SIZE_BYTES = 64 * 1024 * 1024
_ZEROS = ("errors", "lost", "stale", "misplaced")


class LoadRig:
    """A supervisor, a worker, a standby and a generator that checks every sector it reads.

    Args:
        prior_writes: how many writes the writable layer took before.
        load_options: of `obdsup-ringd load`, as on its command line.
        seed: of the prior writes' places.
        patience_s: bound of each step.
        options: further ones of the supervisor.
        python_path: as of Node.
        environment: as of Node.
    """

    def __init__(
        self,
        prior_writes: int,
        load_options: str,
        seed: int,
        patience_s: float = 60.0,
        *,
        options: Sequence[str] = (),
        python_path: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._prior_writes = prior_writes
        self._load_options = load_options
        self._seed = seed
        self._patience_s = patience_s
        self._options = tuple(options)
        self._python_path = python_path
        self._environment = environment
        self._stack = ExitStack()
        self.report: dict[str, Any] = {}

    def __enter__(self) -> Self:
        with self._stack:  # takes down what was put up if a step fails
            folders = OwnFolders.make("stall")
            run_dir, state_dir = folders.run, folders.state
            self.node = Node(
                run_dir, state_dir, "load", self._patience_s, options=self._options,
                python_path=self._python_path, environment=self._environment,
            )  # fmt: skip
            self._stack.callback(self.node.clean_up)
            self.journal = DeviceJournal(run_dir, DEVICE)
            self.gaps = RingGaps(run_dir / "rings" / f"{DEVICE}.sock")
            self.killer = Killer(self.node, self.journal.read, wait_until, self._patience_s)
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
                self.report = self._finish()

    def hand_over(self) -> None:
        """One planned hand-over of the device.

        Raises:
            RigError: it did not happen.
        """
        self.node.obdsup("device", "handover", DEVICE)

    def _create(self, run_dir: Path, state_dir: Path) -> None:
        rings = run_dir / "rings"
        rings.mkdir(mode=0o700, parents=True)
        (rings / f"{DEVICE}.options").write_text(self._load_options)
        image = BlankImage.make(self.node, state_dir, DEVICE, SIZE_BYTES)
        append_history(image.data, image.index, self._prior_writes, SIZE_BYTES, self._seed)
        self.node.start_supervisor()
        wait_until(self.node.is_answering, self._patience_s, "an answer of the supervisor")
        create = ["device", "create", DEVICE, "--image", str(image.config), "--writable"]
        self.node.obdsup(*create, "--provider", "load")
        wait_until(lambda: self.journal.read().completed > 0, self._patience_s, "first commands")

    def _finish(self) -> dict[str, Any]:
        """Reads everything back, removes the device and returns the generator's verdict."""
        self.node.remove_device(DEVICE)
        path = self.node.run_dir / "rings" / f"{DEVICE}.json"
        report: dict[str, Any] = json.loads(path.read_text())
        wrong = {key: report[key] for key in _ZEROS if report[key]}
        if wrong or report.get("broken"):
            raise RigError(f"the load's checker found: {wrong}, broken: {report.get('broken')}")
        return report
