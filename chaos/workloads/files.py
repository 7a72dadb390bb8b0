"""The workloads that need nothing but a file system: metadata churn and sqlite."""

from __future__ import annotations

from chaos.workloads.ground import Ground
from chaos.workloads.mounted import MountedWorkload

__all__ = ["metadata"]


def metadata(ground: Ground) -> MountedWorkload:
    """Metadata churn against a model of the tree."""
    return MountedWorkload("metadata", ground, "chaos.workloads.metadata")
