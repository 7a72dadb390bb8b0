"""The workloads that run in a container: redis, and a git build."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from chaos.rig import image, recipes
from chaos.rig.container import Container, ContainerRunner
from chaos.rig.containerd import ContainerdContainer
from chaos.rig.problem import RigError
from chaos.workloads.git.repository import make_pipes
from chaos.workloads.git.script import SCRIPT
from chaos.workloads.ground import Ground, Runtime
from chaos.workloads.mounted import MountedWorkload

__all__ = ["git", "git_image", "redis", "redis_image"]

SOCKET = "run/redis.sock"
REDIS = ["/usr/bin/redis-server", "/etc/redis.conf"]


def redis_image(cache: Path) -> Path:
    """The config of the image that ``redis`` runs on."""
    return image.build(cache, recipes.REDIS).config


def redis(ground: Ground) -> MountedWorkload:
    """Redis, every SET fsynced; clients that judge every answer; a reader of sealed layers.

    Raises:
        RigError: its image can not be had.
    """
    from chaos.workloads.redis.client import wait_answering

    built = _built(ground, recipes.REDIS)
    container = _container("redis", ground, REDIS)
    socket = ground.mount / SOCKET

    def wait_serving() -> None:
        try:
            wait_answering(socket, container.check, ground.patience_s)
        except TimeoutError as error:
            raise RigError(f"{error}; {container.log_end()}") from error

    arguments = {
        "socket": str(socket),
        "probe_inside": built.probe_inside,
        "probe_copy": str(built.probe_copy.resolve()),
    }
    module = "chaos.workloads.redis"
    return MountedWorkload("redis", ground, module, arguments, container, wait_serving)


def git_image(cache: Path) -> Path:
    """The config of the image that ``git`` runs on."""
    return image.build(cache, recipes.GIT).config


def git(ground: Ground) -> MountedWorkload:
    """A repository that grows and is built, each commit and each result accounted for."""
    orders = ground.scratch / "orders"
    make_pipes(orders)
    command = ["/bin/sh", "-c", SCRIPT]
    container = _container("git", ground, command, {"/orders": orders})
    arguments = {"orders": str(orders)}
    return MountedWorkload("git", ground, "chaos.workloads.git", arguments, container)


def _built(ground: Ground, recipe: image.Recipe) -> image.LayeredImage:
    """What the device was made of: it is in the cache, and asking apt again would take a while."""
    return image.find(ground.cache, recipe) or image.build(ground.cache, recipe)


def _container(
    name: str, ground: Ground, command: list[str], binds: Mapping[str, Path] | None = None
) -> ContainerRunner:
    folder = ground.scratch / "c"
    unique = f"obdsup-{name}-{os.getpid()}-{ground.device.name}"
    if ground.runtime is Runtime.CONTAINERD:
        cache = ground.cache
        return ContainerdContainer(unique, folder, ground.mount, command, cache, binds)
    return Container(unique, folder, ground.mount, command, binds)
