"""Which worker serves which device. Pure.

A worker serves as many devices as each of them allows (``Lodger.per_worker``). When many are lost
at once, that waits: several go on one standby that has their images open (a crowd), and are moved
apart afterwards. A device whose worker died of what it was executing is a suspect: it is with
nobody, and nobody is put with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["Lodger", "Seat", "choose", "is_over_full", "memory_limit", "next_move"]


@dataclass(frozen=True, slots=True)
class Lodger:
    """A device as placement sees it."""

    name: str
    per_worker: int = 1  # how many devices its worker may serve
    memory_max_bytes: int = 0  # of its worker; 0: no limit
    is_suspect: bool = False
    release_path: str = ""  # where its workers come from


@dataclass(frozen=True, slots=True)
class Seat:
    """A living worker that could serve, as placement sees it."""

    worker_id: str
    lodgers: tuple[Lodger, ...] = ()  # those it serves; none: a standby
    is_warm: bool = True  # has all images open
    is_settled: bool = False  # closed the images of others: not for a crowd
    is_fresh: bool = True  # was given a device just now, so it did not die with others before

    @property
    def has_suspect(self) -> bool:
        return any(lodger.is_suspect for lodger in self.lodgers)


def _has_room(seat: Seat, lodger: Lodger) -> bool:
    """Whether the device may stay there."""
    together = (*seat.lodgers, lodger)
    return (
        len(together) <= min(one.per_worker for one in together)
        and not any(one.is_suspect for one in together)
        and len({one.memory_max_bytes for one in together}) == 1
    )


def choose(
    lodger: Lodger,
    seats: Iterable[Seat],
    *,
    is_warm: bool = False,
    may_crowd: bool = False,
    is_rush: bool = False,
) -> str | None:
    """The worker that gets the device, or None: wait for another.

    Args:
        lodger: the device.
        seats: workers of its release.
        is_warm: a standby will do only if it has all images open.
        may_crowd: nobody serves it now: better in a crowd than not at all.
        is_rush: many workers are dying: one that is not fresh may be among them, not yet noticed.
    """
    seats = list(seats)
    roomy = [seat for seat in seats if seat.lodgers and _has_room(seat, lodger)]
    if roomy:
        return max(roomy, key=lambda seat: len(seat.lodgers)).worker_id
    free = [seat for seat in seats if not seat.lodgers and (seat.is_warm or not is_warm)]
    if free:
        return max(free, key=lambda seat: seat.is_warm).worker_id
    if may_crowd and not lodger.is_suspect:
        crowds = [
            seat
            for seat in seats
            if seat.lodgers
            and not seat.is_settled
            and not seat.has_suspect
            and (seat.is_fresh or not is_rush)
        ]
        if crowds:
            return min(crowds, key=lambda seat: (not seat.is_warm, len(seat.lodgers))).worker_id
    return None


def is_over_full(seat: Seat) -> bool:
    """Whether devices have to be moved away, for what they allow or for a suspect among them."""
    lodgers = seat.lodgers
    if len(lodgers) < 2:
        return False
    return (
        len(lodgers) > min(one.per_worker for one in lodgers)
        or seat.has_suspect
        or len({one.memory_max_bytes for one in lodgers}) > 1
    )


def next_move(seats: Sequence[Seat], avoid: frozenset[str] = frozenset()) -> str | None:
    """The device to move next to make every worker serve only what it may; None: nothing to do.

    Suspects go first, then the strictest of the fullest worker.

    Args:
        seats: all workers that serve.
        avoid: devices whose move was tried and has to wait.
    """
    crowded = [
        (seat, lodger)
        for seat in seats
        if is_over_full(seat)
        for lodger in seat.lodgers
        if lodger.name not in avoid
    ]
    if not crowded:
        return None
    _, lodger = min(
        crowded,
        key=lambda pair: (
            not pair[1].is_suspect, -len(pair[0].lodgers), pair[1].per_worker, pair[1].name,
        ),
    )  # fmt: skip
    return lodger.name


def memory_limit(lodgers: Iterable[Lodger]) -> int:
    """Bytes a worker with these devices may use, 0: no limit. In a crowd with one that has no
    limit there is none: its worker must not die for what another device allows."""
    limits = [lodger.memory_max_bytes for lodger in lodgers]
    return max(limits) if limits and all(limits) else 0
