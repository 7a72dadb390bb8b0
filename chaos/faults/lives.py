"""Deaths while a device is made or taken away: afterwards it is there as a whole, or gone.

The device is an extra one; its row in state.db proves that the death came in between.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import sqlite3
import threading
import time
from contextlib import ExitStack
from pathlib import Path

from chaos.faults.base import Landing, Need, Site
from chaos.rig.blank_image import BlankImage
from chaos.rig.counters import DeviceJournal
from chaos.rig.node import Node, wait_until
from chaos.rig.problem import RigError
from chaos.rig.process import Process, processes_naming
from obdsup.errors import ObdError

__all__ = ["KillInCreate", "KillInRemove"]

DEVICE = "extra"
SIZE_BYTES = 16 * 1024 * 1024
LOAD = "--qd 4 --read-percent 80 --max-sectors 8 --flush-percent 1"
CREATE_PHASES = ("planned", "ring_made", "serving")
REMOVE_PHASES = ("retracting", "retracted", "drained")
VICTIMS = ("supervisor", "workers")


class KillInCreate:
    kind = "kill-in-create"
    about = "SIGKILL of the supervisor, or of the workers, while a device is being created"
    needs = frozenset({Need.SUPERVISED})

    def inflict(self, site: Site, chance: random.Random) -> Landing:
        with _Extra(site) as extra:
            request = {"op": "device.create", "image": str(extra.config), "writable": True}
            return extra.kill_during(request, chance, CREATE_PHASES)


class KillInRemove:
    kind = "kill-in-remove"
    about = "SIGKILL of the supervisor, or of the workers, while a device is being removed"
    needs = frozenset({Need.SUPERVISED})

    def inflict(self, site: Site, chance: random.Random) -> Landing:
        with _Extra(site) as extra:
            create = ["device", "create", DEVICE, "--image", str(extra.config), "--writable"]
            site.node.obdsup(*create)
            wait_until(site.node.has_standby, site.patience_s, "a warm standby")
            return extra.kill_during({"op": "device.remove"}, chance, REMOVE_PHASES)


class _Extra:
    """The extra device: its files, the death, and the proof that nothing half is left."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._node: Node = site.node
        self.config = Path()

    def __enter__(self) -> _Extra:
        self._node.remove_device(DEVICE)  # left by a fault that failed
        self.config = BlankImage.make(self._node, self._site.folder, DEVICE, SIZE_BYTES).config
        if self._node.provider == "load":
            (self._node.run_dir / "rings" / f"{DEVICE}.options").write_text(LOAD)
        return self

    def __exit__(self, *ended: object) -> None:
        self._node.remove_device(DEVICE)
        shutil.rmtree(self._site.folder, ignore_errors=True)

    def kill_during(
        self, request: dict[str, object], chance: random.Random, phases: tuple[str, ...]
    ) -> Landing:
        """Strikes when the row is in a phase drawn from ``phases``, or as soon as it is past it."""
        victim, wanted = chance.choice(VICTIMS), chance.choice(phases)
        call = _Call(self._node, request)
        processes = self._processes(victim)
        with ExitStack() as stack:
            sends = [stack.enter_context(p.held()) for p in processes]
            call.start()
            self._wait_phase(wanted, phases, call)
            begun_ns = time.monotonic_ns()
            killed = sum(send(signal.SIGKILL) for send in sends)
            if victim == "workers":
                killed += self._kill_owner()
        for process in processes:
            process.wait_gone(self._site.patience_s)
        phase = self._phase()
        if victim == "supervisor":
            self._node.restart_supervisor()
        call.join(self._site.patience_s)
        wait_until(self._is_settled, self._site.patience_s, f"device {DEVICE} to be whole or gone")
        served_ns = time.monotonic_ns()
        state = "there" if self._row() else "gone"
        wrong = self._check()
        return Landing(
            begun_ns=begun_ns,
            served_ns=served_ns,
            has_landed=killed > 0 and phase in phases,
            evidence=f"{victim} died while the row said {phase or 'nothing'} (aimed at {wanted}); "
            f"the request {call.result}, the device is {state}",
            wrong=tuple(wrong),
            supervisors_killed=int(victim == "supervisor"),
        )

    def _processes(self, victim: str) -> list[Process]:
        if victim == "supervisor":
            return [self._node.supervisor()]
        return self._node.workers("standby")

    def _kill_owner(self) -> int:
        """The worker that serves the extra device, if one does."""
        with contextlib.suppress(OSError):
            process = Process.of(self._journal().read().owner_pid)
            return int(process is not None and process.send(signal.SIGKILL))
        return 0

    def _wait_phase(self, wanted: str, phases: tuple[str, ...], call: _Call) -> None:
        later = phases[phases.index(wanted) :]
        deadline = time.monotonic() + self._site.patience_s
        while call.is_alive() and time.monotonic() < deadline:
            if self._phase() in later:
                return

    def _phase(self) -> str:
        """The phase of the extra device as it is on disk; "" without a row."""
        uri = f"file:{self._node.state_dir / 'state.db'}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=10)) as connection:
            query = "SELECT phase FROM devices WHERE name = ?"
            row = connection.execute(query, (DEVICE,)).fetchone()
        return str(row[0]) if row else ""

    def _row(self) -> dict[str, object] | None:
        return self._node.device_row(DEVICE)

    def _is_settled(self) -> bool:
        if not self._node.is_answering():
            return False
        row = self._row()
        return row is None or row["phase"] in ("online", "failed")

    def _check(self) -> list[str]:
        """A device that is there serves, and can be removed; one that is gone left no ring."""
        wrong = []
        row = self._row()
        if row is not None and row["phase"] == "failed":
            wrong.append(f"device {DEVICE} got stuck: {row['reason']}")
        elif row is not None:
            wrong += self._check_served(str(row["block_device"] or ""))
        self._node.remove_device(DEVICE)
        if self._row() is not None or self._phase():
            wrong.append(f"device {DEVICE} is still known after its removal")
        left = processes_naming(self._node.run_dir / "rings" / f"{DEVICE}.sock")
        if left:
            wrong.append(f"its ring is still there: process {left[0].pid}")
        return wrong

    def _check_served(self, block_device: str) -> list[str]:
        if block_device:
            try:
                with Path(block_device).open("rb", buffering=0) as disk:
                    return [] if len(disk.read(4096)) == 4096 else [f"{block_device}: short read"]
            except OSError as error:
                return [f"{block_device} can not be read: {error}"]
        before = self._journal().read().completed
        try:
            wait_until(
                lambda: self._journal().read().completed > before,
                self._site.patience_s,
                f"a completion on {DEVICE}",
            )
        except RigError as error:
            return [str(error)]
        return []

    def _journal(self) -> DeviceJournal:
        return DeviceJournal(self._node.run_dir, DEVICE)


class _Call(threading.Thread):
    """One request to the supervisor; ``result`` says how it ended."""

    def __init__(self, node: Node, request: dict[str, object]) -> None:
        super().__init__(name="request", daemon=True)
        self.result = "did not end"
        self._node = node
        self._fields = {**request, "name": DEVICE}

    def run(self) -> None:
        fields = dict(self._fields)
        try:
            self._node.ask(str(fields.pop("op")), **fields)
            self.result = "succeeded"
        except ObdError as error:
            self.result = f"failed ({type(error).__name__})"

    def join(self, timeout: float | None = None) -> None:
        super().join(timeout)
        if self.is_alive():
            raise RigError(f"{self._fields['op']} of {DEVICE} does not end")
