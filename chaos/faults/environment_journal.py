"""The in-flight journal damaged between a worker's death and its successor."""

from __future__ import annotations

import os
import random
import signal
import struct
import time
from collections.abc import Callable
from pathlib import Path

from chaos.faults.base import Landing, Need, Site
from chaos.faults.environment import Watch
from chaos.rig.kills import aim
from chaos.rig.node import wait_until
from chaos.rig.problem import RigError
from chaos.rig.supervision import stop_supervisor
from obdsup.errors import ObdError
from obdsup.state.journal import HEADER_BYTES, JournalReader

__all__ = ["TornJournal"]

AIMS = 50
HEADER_FIELDS = (  # name, offset, length: all under the header's CRC or checked against the ring
    ("magic", 0, 8),
    ("layout_version", 8, 4),
    ("boot_id", 16, 16),
    ("device_uuid", 32, 16),
    ("slot_cnt", 48, 4),
    ("slot_bytes", 52, 4),
    ("cmdr_size", 64, 4),
    ("map_bytes", 72, 8),
    ("crc32c", 124, 4),
)
GENERATION_OFFSET, NEXT_OFFSET = 128, 136
SLOT_STATE, SLOT_RING_OFFSET, SLOT_CMD_ID = 0, 8, 12  # in a slot


class TornJournal:
    """Supervisor and worker die with commands in flight, then the journal is damaged.

    It must be refused, the ring reset, and every command that was in flight sent again by the
    kernel's side.
    """

    kind = "journal-torn"
    about = "the journal is damaged while nobody serves: refused, the ring is reset, nothing lost"
    needs = frozenset({Need.SUPERVISED})

    def inflict(self, site: Site, chance: random.Random) -> Landing:
        node, watch = site.node, Watch(site)
        last = watch.last_event()
        stop_supervisor(node)
        try:
            in_flight = _kill_with_commands_in_flight(watch)
            name = chance.choice(sorted(DAMAGES))
            DAMAGES[name](_path(site), chance)
        finally:
            node.start_supervisor()
        watch.wait_for_supervisor()
        wait_until(lambda: _is_settled(watch, last), site.patience_s, "a reset or a take-over")
        served = watch.wait_for_successor()
        watch.wait_until_it_goes_on()
        resets = watch.events_since(last, "ring.reset")
        reason = str(resets[0]["fields"].get("reason", "")) if resets else "no ring.reset"
        wrong = [] if resets else [f"{name}: the journal was taken as sound"]
        if len(resets) > 1:
            wrong.append(f"{name}: the ring was reset {len(resets)} times")
        return watch.landing(
            has_landed=in_flight > 0 and bool(resets),
            evidence=f"{name}, {in_flight} in flight: {reason}",
            wrong=wrong,
            served_ns=served.first_publish_ns,
            workers_killed=1,
            supervisors_killed=1,
        )


def _is_settled(watch: Watch, last: int) -> bool:
    """Counters in a damaged journal say nothing; the reset, or the take-over without one, does."""
    return any(watch.events_since(last, name) for name in ("ring.reset", "takeover.done"))


def _path(site: Site) -> Path:
    return site.node.run_dir / "devices" / site.device.name / "inflight"


def _kill_with_commands_in_flight(watch: Watch) -> int:
    """Stops the worker until it is caught with commands in flight, then kills it; how many."""
    worker, read = watch.worker(), watch.site.device.journal.read
    for _ in range(AIMS):
        aim(read, watch.site.patience_s)
        worker.send(signal.SIGSTOP)
        if read().in_flight > 0:
            break
        worker.send(signal.SIGCONT)
        time.sleep(0.001)
    watch.strike_now()
    worker.send(signal.SIGKILL)
    if not worker.wait_gone(watch.site.patience_s):
        raise RigError(f"journal-torn: worker {worker.pid} does not die")
    return len(_slots(watch.site))


def _slots(site: Site) -> list[int]:
    """The slots with a command in flight, by index."""
    fd = os.open(_path(site), os.O_RDONLY | os.O_CLOEXEC)
    try:
        return [slot.index for slot in JournalReader(fd, str(_path(site))).slots()]
    except ObdError as error:
        raise RigError(
            f"the journal of {site.device.name} was unreadable before: {error}"
        ) from error
    finally:
        os.close(fd)


def _emptied(path: Path, chance: random.Random) -> None:
    os.truncate(path, 0)


def _cut(path: Path, chance: random.Random) -> None:
    os.truncate(path, chance.randrange(1, path.stat().st_size))


def _zeros(path: Path, chance: random.Random) -> None:
    _overwrite(path, 0, bytes(path.stat().st_size))


def _header(path: Path, chance: random.Random) -> None:
    """One byte of one field of the header."""
    _, offset, length = chance.choice(HEADER_FIELDS)
    _flip(path, offset + chance.randrange(length), chance)


def _random_header(path: Path, chance: random.Random) -> None:
    _overwrite(path, 0, chance.randbytes(HEADER_BYTES))


def _next(path: Path, chance: random.Random) -> None:
    """Up to where entries were picked up."""
    _overwrite(path, NEXT_OFFSET, chance.randbytes(8))


def _generation(path: Path, chance: random.Random) -> None:
    """Who may publish: beyond every number that could follow."""
    _overwrite(path, GENERATION_OFFSET, b"\xff" * 7 + bytes([chance.randrange(0x80, 0x100)]))


def _slot_state(path: Path, chance: random.Random) -> None:
    """A state that is none, in the first slot."""
    _overwrite(path, HEADER_BYTES + SLOT_STATE, struct.pack("<I", chance.randrange(3, 1 << 32)))


DAMAGES: dict[str, Callable[[Path, random.Random], None]] = {
    "emptied": _emptied,
    "cut": _cut,
    "zeros": _zeros,
    "header-byte": _header,
    "header-random": _random_header,
    "generation": _generation,
    "next": _next,
    "slot-state": _slot_state,
}


def _overwrite(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def _flip(path: Path, offset: int, chance: random.Random) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ chance.randrange(1, 256)]))
