"""Stopping and starting the node's supervisor while its workers serve on."""

from __future__ import annotations

import signal

from chaos.rig.node import Node, wait_until

__all__ = ["ends_by_itself", "stop_supervisor"]


def stop_supervisor(node: Node) -> None:
    """SIGKILL, and waits until it is gone; fine when it has ended already."""
    process = node.supervisor_process()
    if process is not None:
        process.send(signal.SIGKILL)
    node.reap_supervisor()


def ends_by_itself(node: Node) -> bool:
    """Starts the supervisor and waits until it answers or has ended: whether it has ended.

    Raises:
        RigError: neither within the node's patience.
    """
    node.start_supervisor()

    def is_settled() -> bool:
        return node.supervisor_process() is None or node.is_answering()

    wait_until(is_settled, node.patience_s, "the supervisor answers or ends")
    return node.supervisor_process() is None
