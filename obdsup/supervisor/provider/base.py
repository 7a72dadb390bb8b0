"""What the supervisor asks of a ring provider, whichever plays the kernel's part.

The order of a device's life, each step idempotent so that a supervisor that died half way can call
it again: ``create`` → ``open_ring`` → (worker serves) → ``publish`` → … → ``retract`` (worker still
serves) → (worker detached) → ``destroy``. ``reset_ring`` only while nobody serves.
All calls may block for seconds and therefore run in a thread, never in the supervisor's loop.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Protocol

__all__ = ["DeviceGeometry", "FoundRing", "Probe", "ProviderIds", "RingHandle", "RingProvider"]


@dataclass(frozen=True, slots=True)
class Probe:
    """Whether a provider works on this host, and why or why not, in plain words."""

    is_available: bool
    reason: str


@dataclass(frozen=True, slots=True)
class DeviceGeometry:
    """What a provider must know to make a device."""

    name: str
    uuid: str
    size_bytes: int
    is_read_only: bool
    config_path: str


# What identifies the device to its provider; JSON values only: it is kept in state.db.
ProviderIds = dict[str, str | int]


@dataclass(slots=True)
class RingHandle:
    """The fds of one ring, owned by the holder of this object until ``close``.

    ``kind`` "uio": one fd, mapped, polled, read and written with 4-byte events. ``kind`` "memfd":
    three fds (memory, wait eventfd, kick eventfd), 8-byte events.
    """

    kind: str
    fds: list[int]
    map_bytes: int
    is_closed: bool = field(default=False)
    # Held while the fds are used or closed: nobody uses the number of an fd that was closed.
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def close(self) -> None:
        """Closes the fds; the ring itself lives on in its provider."""
        with self.lock:
            while self.fds:
                os.close(self.fds.pop())
            self.is_closed = True


@dataclass(frozen=True, slots=True)
class FoundRing:
    """A ring of a device that nobody remembered, by what its provider shows of it."""

    provider: str
    ids: ProviderIds
    geometry: DeviceGeometry  # ``is_read_only`` is not to be relied on
    is_read_only: bool | None  # None: the provider can not tell
    made_at: float  # Unix time, seconds; not later than it was
    is_ours: bool  # lies in this supervisor's run directory; else its journal has to show it


class RingProvider(Protocol):
    """One way to have a TCMU ring. Every method raises ``ProviderError`` with a hint on failure."""

    name: str

    def probe(self) -> Probe:
        """Checks this host without changing it."""

    def create(self, geometry: DeviceGeometry) -> ProviderIds:
        """Makes the ring (not yet visible as a block device); returns what identifies it."""

    def exists(self, ids: ProviderIds) -> bool:
        """Whether the ring of a device recorded earlier is still there."""

    def found(self, known: Collection[str]) -> list[FoundRing]:
        """The rings that are there, but for those of devices whose names are known. Of others, or
        without what identifies a device: left out."""

    def open_ring(self, ids: ProviderIds) -> RingHandle:
        """Opens the ring by its identity. The caller owns the handle."""

    def resume_ring(self, ids: ProviderIds) -> None:
        """For a ring whose fds were kept: undoes what a supervisor left that died in the middle of
        ``reset_ring``, as ``open_ring`` does."""

    def publish(self, ids: ProviderIds) -> str:
        """Makes the block device appear and returns its path. A worker must be serving."""

    def retract(self, ids: ProviderIds) -> None:
        """Takes the block device away. A worker must be serving. Fails if it is in use."""

    def reset_ring(self, ids: ProviderIds) -> None:
        """Empties the ring: in-flight commands are sent again. Nobody may be serving."""

    def destroy(self, ids: ProviderIds) -> None:
        """Removes the ring. Fine to call again, or for a device that is half gone."""
