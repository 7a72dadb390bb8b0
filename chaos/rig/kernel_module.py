"""Kernel modules that make a device node: loaded when the node is not there yet."""

from __future__ import annotations

from pathlib import Path

from chaos.rig.problem import RigError, run

__all__ = ["need_node"]


def need_node(node: Path, module: str) -> None:
    """Makes sure that a device node is there.

    Raises:
        RigError: the module can not be loaded, or does not make it.
    """
    if node.exists():
        return
    run(["modprobe", module], what=f"load {module} for {node}")
    if not node.exists():
        raise RigError(f"{node} is not there though the module {module} is loaded")
