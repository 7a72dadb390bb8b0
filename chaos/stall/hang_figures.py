"""How long until a worker that hangs is found, by the way it hangs; under a load that is checked.

Found means dead: the time from the cause to the proof that the process is gone. Then served again.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from chaos.rig import hooked
from chaos.rig.failpoints import Action, FailPoints
from chaos.rig.held_thread import HeldThread
from chaos.rig.node import wait_until
from chaos.rig.process import Process
from chaos.stall.rig import LoadRig

__all__ = ["HANGS", "hangs"]

LOAD = "--qd 8 --read-percent 70 --max-sectors 16 --flush-percent 0"
PATIENCE_S = 60.0
# Each begins one hang of a worker and returns when it began, in CLOCK_MONOTONIC nanoseconds.
Begin = Callable[[LoadRig, FailPoints, Process, ExitStack], int]


def _stop(rig: LoadRig, points: FailPoints, worker: Process, stack: ExitStack) -> int:
    begun_ns = time.monotonic_ns()
    worker.send(signal.SIGSTOP)
    return begun_ns


def _hold_control(rig: LoadRig, points: FailPoints, worker: Process, stack: ExitStack) -> int:
    stack.enter_context(HeldThread(worker.pid))
    return time.monotonic_ns()


def _spin_at(point: str) -> Begin:
    def begin(rig: LoadRig, points: FailPoints, worker: Process, stack: ExitStack) -> int:
        last = max((hit.number for hit in points.hits()), default=-1)
        points.arm(point, Action.SPIN)
        return points.wait(PATIENCE_S, after=last).when_ns

    return begin


HANGS: dict[str, Begin] = {
    "stopped": _stop,
    "loop in the engine": _spin_at("pickup.valid"),
    "loop in a command": _spin_at("upper.data"),
    "control held": _hold_control,
}


def hangs(kind: str, count: int, limit_s: float, seed: int) -> dict[str, Any]:
    """Has a worker hang ``count`` times in one of the ways of HANGS.

    Returns:
        found_s and served_s of every hang, and the commands that were checked meanwhile.

    Raises:
        RigError: a hang was not found, or the load saw something of it.
    """
    found_s, served_s = [], []
    with _hooked_rig(limit_s, seed) as (rig, points):
        for _ in range(count):
            rig.killer.wait_ready()
            before = rig.journal.read()
            worker = Process.of(before.owner_pid)
            assert worker is not None
            with ExitStack() as stack:
                begun_ns = HANGS[kind](rig, points, worker, stack)
                wait_until(lambda: not worker.is_alive(), PATIENCE_S, f"end of {kind}", 0.01)  # noqa: B023
                found_s.append((time.monotonic_ns() - begun_ns) / 1e9)

            def is_served() -> bool:
                now = rig.journal.read()
                return now.owner_generation > before.owner_generation and now.first_publish_ns > 0  # noqa: B023

            wait_until(is_served, PATIENCE_S, f"service after {kind}", 0.01)
            served_s.append((rig.journal.read().first_publish_ns - begun_ns) / 1e9)
    return {
        "what": f"hang: {kind}",
        "limit_s": limit_s,
        "found_s": [round(value, 3) for value in found_s],
        "served_s": [round(value, 3) for value in served_s],
        "commands": rig.report["commands"],
    }


@contextmanager
def _hooked_rig(limit_s: float, seed: int) -> Iterator[tuple[LoadRig, FailPoints]]:
    with tempfile.TemporaryDirectory(prefix=f"obdsup-hangs-{os.getpid()}-") as folder:
        points = FailPoints.create(Path(folder) / "points")
        with LoadRig(
            0,
            LOAD,
            seed,
            options=("--hang-limit", str(limit_s)),
            python_path=hooked.build(),
            environment=points.environment,
        ) as rig:
            yield rig, points
        points.close()
