"""The bugs that are planted, and for each the load, the events and the seed that show it.

A bug is a name of OBD_CHEAT_LIST in native/src/obd_crash.h. Some need company: ``with_`` names
faults of the surroundings (a slow disk, a predecessor that does not let go) which a sound worker
survives; ``CONTROLS`` runs each of those without the bug, and must find nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from chaos.rig.failpoints import POINTS
from chaos.rig.problem import RigError

__all__ = ["BUGS", "CONTROLS", "NOT_PASSED", "Bug", "bug_named"]

_LOAD = "--qd 8 --max-sectors 16 --flush-percent 1 --span 4194304 --drain-seconds 10"
_ONE_AT_A_TIME = "--qd 1 --max-sectors 16 --flush-percent 0 --span 4194304 --drain-seconds 10"
_WRITES = (
    "--qd 16 --read-percent 5 --max-sectors 16 --flush-percent 0 --span 4194304 --drain-seconds 10"
)
# Entries of many sizes, so that a lap of the ring ends with padding and the next begins at 0.
_LAPS = (
    "--qd 16 --read-percent 70 --max-sectors 128 --flush-percent 0 --span 4194304"
    " --drain-seconds 10"
)

# Not passed, or not for sure, by a worker that serves, takes over or hands over under this load.
NOT_PASSED = {
    "image.open", "image.lower", "image.upper", "image.opened",  # a standby: nobody waits for it
    "attach.prepare", "format.unmarked", "format.filled", "format.magic",  # a new journal
    "recover.free", "recover.drop", "upper.cut", "replay.read",  # what the death left
    "pickup.skip", "publish.skip",  # no padding: every entry has the same size
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Bug:
    """One bug and how it is looked for.

    Attributes:
        name: as on the command line and in OBDSUP_PLANTED; "" in a control.
        about: what the worker does wrong.
        seed: shows it; of the places and kinds of commands, of the events and of the fault.
        events: drawn from at random (equal chances), one after the other: "kill" (of the worker),
            "both" (with the supervisor), "hand-over", "pause" (load alone), "lap" (a kill at the
            first pick-up after the end of the ring), or a point of a worker at which it dies.
        load: options of ``obdsup-ringd load`` but for its seed.
        with_: faults of the surroundings.
        devices: how many devices there are; each has a worker of its own.
        is_durability: only a power cut shows it: see ``power_cut``.
    """

    name: str
    about: str
    seed: int = 1
    events: tuple[str, ...] = ("kill", "pause")
    load: str = _LOAD
    with_: tuple[str, ...] = ()
    devices: int = 1
    is_durability: bool = False

    @property
    def planted(self) -> str:
        """For OBDSUP_PLANTED."""
        return ",".join(([self.name] if self.name else []) + list(self.with_))


BUGS = (
    Bug("skip_record", "publishes without a record", events=("publish.free",)),
    Bug("reuse_id", "answers with the id of another command", events=("pause",)),
    Bug("publish_twice", "answers a command two times", events=("pause",)),
    Bug("ring_only", "recovers from the ring, not the journal", events=("kill",)),
    Bug("record_after_tail", "records behind the commit point", events=("publish.committed",)),
    Bug("free_before_tail", "frees the slot before the commit point", events=("publish.tail",)),
    Bug("no_sequence_check", "recovers what `next` still names", events=("pickup.next",)),
    Bug("drop_by_offset", "drops a slot for its offset", 1, ("lap",), _LAPS, ("slow_lap",)),
    Bug("no_high_water_mark", "appends where data may still land", 1, ("kill",), _WRITES,
        ("late_landing",)),
    Bug("no_generation_check", "two servers of one ring", events=("hand-over",),
        with_=("half_detach", "no_lock")),
    Bug("drop_write", "acknowledges a write it did not do"),
    Bug("stale_read", "reads the lowers although the upper has it"),
    Bug("wrong_lba", "writes 4 KiB behind the place"),
    Bug("late_replay", "executes a recovered write once more, later",
        events=("upper.written", "pause"), load=_WRITES),
    Bug("answer_early", "answers a write, then does it"),
    Bug("lose_in_flight", "forgets a command at recovery", events=("kill",)),
    Bug("swallow_kick", "answers without telling", load=_ONE_AT_A_TIME),
    Bug("torn_write", "writes half of the sectors"),
    Bug("sync_nothing", "acknowledges a flush without one", is_durability=True),
    Bug("sync_index_alone", "syncs records whose data is not", is_durability=True),
    Bug("two_devices_mixed", "reads another device's image", devices=2),
)  # fmt: skip

# Nothing planted under every kind of event; then what bugs above are planted with, alone.
CONTROLS = (
    Bug("", "no bug", events=(
        "kill", "both", "hand-over", "pause", "publish.free", "publish.tail",
        "publish.committed", "pickup.next", "upper.data", "upper.record", "flush.index",
        "recover.done", "attach.generation",
    )),
    Bug("", "deaths at every point", events=tuple(p for p in POINTS if p not in NOT_PASSED)),
    Bug("", "data lands after its process died", 1, ("kill",), _WRITES, ("late_landing",)),
    Bug("", "a command slower than a lap", 1, ("lap",), _LAPS, ("slow_lap",)),
    Bug("", "a predecessor that serves on", events=("hand-over",), with_=("half_detach",)),
    Bug("", "power cut, no bug", is_durability=True),
)  # fmt: skip


def bug_named(name: str) -> Bug:
    """The bug of that name.

    Raises:
        RigError: there is none.
    """
    for bug in BUGS:
        if bug.name == name:
            return bug
    raise RigError(f"no bug {name!r}: one of {', '.join(bug.name for bug in BUGS)}")
