"""A real device of obdsup (provider fuse) as a workload's ground."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from chaos.rig.node import Node, wait_until
from chaos.workloads.ground import Ground, Runtime
from tests.chaos.loop_ground import CACHE

PATIENCE_S = 60.0
DEVICE = "w"


@contextlib.contextmanager
def device_ground(config: Path, runtime: Runtime = Runtime.RUNC) -> Iterator[Ground]:
    """A writable device on this image, and folders of its own, all gone in the end."""
    with ExitStack() as stack:
        prefix = f"obdsup-wl-{os.getpid()}-"
        run_dir = Path(tempfile.mkdtemp(prefix=prefix, dir="/dev/shm"))
        state_dir = Path(tempfile.mkdtemp(prefix=prefix, dir="/var/tmp"))
        node = Node(run_dir, state_dir, "fuse", PATIENCE_S)
        stack.callback(node.clean_up)
        node.start_supervisor()
        wait_until(node.is_answering, PATIENCE_S, "an answer of the supervisor")
        stack.callback(node.remove_device, DEVICE)
        create = ["device", "create", DEVICE, "--image", str(config), "--writable"]
        row = node.obdsup(*create)
        scratch = run_dir / "s"
        scratch.mkdir()
        yield Ground(
            Path(row["block_device"]),
            run_dir / "m",
            scratch,
            seed=7,
            cache=CACHE,
            patience_s=PATIENCE_S,
            runtime=runtime,
        )


__all__ = ["device_ground"]
