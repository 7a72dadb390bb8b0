"""The workloads that need nothing but a file system: metadata churn and sqlite."""

from __future__ import annotations

from chaos.workloads.ground import Ground
from chaos.workloads.mounted import MountedWorkload

__all__ = ["metadata", "sqlite"]


def metadata(ground: Ground) -> MountedWorkload:
    """Metadata churn against a model of the tree."""
    return MountedWorkload("metadata", ground, "chaos.workloads.metadata")


def sqlite(ground: Ground) -> MountedWorkload:
    """Two databases, rollback journal and WAL, whose writers die."""
    return MountedWorkload("sqlite", ground, "chaos.workloads.sqlite")
