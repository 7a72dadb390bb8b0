"""Why a device is in its state, what was tried, what to do: a pure function over facts.

Two machines make the state, so two tables explain it: what a device's life is at (device_machine)
and who serves it (service_machine). Both are total, so every pair has a text; what else matters
(quarantine, hangs, poison, the rollout, a full disk) is added from the facts.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import NamedTuple

from obdsup.state.device import EventRow

__all__ = ["LIFE", "SERVICE", "DeviceFacts", "Explanation", "Text", "explain"]

EVENTS_TOLD = 12


class Text(NamedTuple):
    """What a state means, and what an operator does about it ("" nothing)."""

    means: str
    to_do: str = ""


# By the states' names, as state.db and `device show` have them.
LIFE: dict[str, Text] = {
    "planned": Text("it is being made: its ring comes next"),
    "ring_made": Text("it is being made: its ring is there, a worker is to serve it next"),
    "serving": Text("it is being made: it is served, its block device is to appear next"),
    "online": Text("it is made: its block device is in use or can be"),
    "rolling_back": Text("a step of its making failed, what was made is being taken back"),
    "retracting": Text("it is being removed: its block device is going"),
    "retracted": Text("it is being removed: its block device is gone, its worker lets go next"),
    "drained": Text("it is being removed: nobody serves it, its ring goes next"),
    "failed": Text(
        "a removal or roll-back got stuck half way",
        "end what the reason names, then `obdsup device remove {name}` again",
    ),
    "gone": Text("it is removed"),
    "restoring": Text(
        "it is of an earlier boot of the host and is being made again, until it is there",
        "remove the cause the reason names, or give it up with `obdsup device remove {name}`",
    ),
}
SERVICE: dict[str, Text] = {
    "unserved": Text("no worker serves it yet"),
    "attaching": Text("a worker is opening its image"),
    "served": Text("worker {worker} serves it"),
    "recovering": Text(
        "its worker is gone and a standby is taking over; I/O waits meanwhile",
        "nothing if it lasts moments; if not, look for a file or registry that does not answer",
    ),
    "resetting": Text(
        "its journal can not be trusted, so its ring is reset; the kernel sends again"
    ),
    "waiting": Text(
        "no worker could serve it at the last try; I/O waits, none fails, it is tried again",
        "remove the cause named below: it heals by itself at the next try",
    ),
    "quarantined": Text(
        "worker after worker died of it, so it is not tried any more; I/O waits, none fails",
        "find out what kills its workers (their logs, below), then `obdsup device resume {name}`",
    ),
    "handing_over": Text("it is moving to another worker, as planned; I/O waits for moments"),
    "draining": Text("its worker completes what is in flight and lets go"),
    "released": Text("nobody serves it any more, on purpose"),
}


# What watchers reported, by event.
_SEEN: dict[str, Text] = {
    "device.hung": Text(
        "a worker hung while it served it: it was killed, another took over",
        "if it comes again, report the worker's log: a hang is a bug",
    ),
    "worker.hung": Text(
        "the control thread of its worker hung: it was killed, another took over",
        "if it comes again, report the worker's log: no command is the cause",
    ),
    "device.slow": Text(
        "its storage answered slowly: commands waited for it, the worker did not hang",
        "look at the disk, network file system or registry its image is on",
    ),
    "worker.oom": Text(
        "a worker that served it was killed for want of memory",
        "give its workers more memory, or the host fewer devices",
    ),
}
_STARVED = Text(
    "its worker got too little processor time, it did not hang",
    "look for what else runs on this host",
)


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """What is known of a device when it is explained; texts are "" when there is none."""

    name: str
    life: str
    service: str
    phase: str
    reason: str = ""
    quarantine: str = ""
    worker: str = ""
    release: str = ""  # that its worker runs
    pinned_release: str = ""  # path of the release its workers are to come from
    is_foreign: bool = False
    in_flight: int = 0
    medium_errors: int = 0
    poisoned: int = 0
    resets: int = 0
    foreign_resets: int = 0
    takeovers: int = 0
    standbys_ready: int = 1
    standbys_wanted: int = 1
    state_failure: str = ""
    rollout: str = ""  # state of the last rollout
    rollout_reason: str = ""
    is_moved_by_rollout: bool = False
    log_dir: str = ""
    events: tuple[EventRow, ...] = ()  # of this device, oldest first


@dataclass(slots=True)
class Explanation:
    """What `obdsup device explain` prints."""

    name: str
    phase: str
    summary: str
    why: list[str] = field(default_factory=list)
    tried: list[str] = field(default_factory=list)
    to_do: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, object]:
        return {"name": self.name, "phase": self.phase, "summary": self.summary, "why": self.why,
                "tried": self.tried, "next": self.to_do}  # fmt: skip


def explain(facts: DeviceFacts) -> Explanation:
    """Explains one device. Pure."""
    life, service = LIFE[facts.life], SERVICE[facts.service]
    names = {"name": facts.name, "worker": facts.worker or "(unknown)"}
    summary = f"{life.means}; {service.means.format(**names)}"
    made = Explanation(facts.name, facts.phase, summary[0].upper() + summary[1:] + ".")
    for text in (service.to_do, life.to_do):
        if text:
            made.to_do.append(text.format(**names))
    for add in (_reason, _quarantine, _seen, _errors, _release, _supervisor):
        add(facts, made)
    made.tried.extend(told(facts.events))
    if not made.to_do:
        made.to_do.append("nothing: no action is needed")
    return made


def _reason(facts: DeviceFacts, made: Explanation) -> None:
    if facts.reason and facts.reason != facts.quarantine:
        made.why.append(facts.reason)
    waits = [row.fields.get("retry_s") for row in facts.events if row.name == "device.blocked"]
    if facts.service == "waiting" and waits and isinstance(waits[-1], int | float):
        made.why.append(f"the last pause between two tries was set to {waits[-1]:.1f} s")
    if facts.service in ("waiting", "quarantined") and facts.in_flight:
        made.why.append(f"{facts.in_flight} command(s) were in flight and wait in its ring")


def _quarantine(facts: DeviceFacts, made: Explanation) -> None:
    if not facts.quarantine:
        return
    made.why.append(f"quarantine: {facts.quarantine}")
    if facts.log_dir:
        made.to_do.append(f"logs of dead workers are in {facts.log_dir}")


def _seen(facts: DeviceFacts, made: Explanation) -> None:
    """What watchers reported of late."""
    last = {row.name: row for row in facts.events}
    for name, (text, to_do) in _SEEN.items():
        if name == "device.slow" and last.get(name) and _is_starved(last[name]):
            text, to_do = _STARVED
        if name in last:
            reason = last[name].fields.get("reason")
            made.why.append(f"{_clock(last[name].ts)}: {text}" + (f" ({reason})" if reason else ""))
            made.to_do.append(to_do)
    if facts.foreign_resets or "ring.reset_by_others" in last:
        made.why.append("another daemon reset its ring; it went on from there")
        made.to_do.append("stop overlaybd-tcmu, or whoever else serves rings on this host")
    elif facts.resets:
        made.why.append(
            f"its ring was reset {facts.resets} time(s): the journal could not be trusted"
        )


def _is_starved(row: EventRow) -> bool:
    return row.fields.get("verdict") == "starved"


def _errors(facts: DeviceFacts, made: Explanation) -> None:
    if facts.poisoned:
        made.why.append(
            f"{facts.poisoned} command(s) killed worker after worker and were completed with a "
            "medium error"
        )
        poison = [row for row in facts.events if row.name == "command.poisoned"]
        where = f" (last: LBA {poison[-1].fields.get('lba')})" if poison else ""
        made.to_do.append(f"check the image at that place{where}: `obdsup image verify CONFIG`")
    others = facts.medium_errors - facts.poisoned
    if others > 0:
        made.why.append(f"{others} read(s) met data that is damaged or can not be had")
        if not facts.poisoned:
            made.to_do.append("check the image: `obdsup image verify CONFIG`, then fetch it again")


def _release(facts: DeviceFacts, made: Explanation) -> None:
    if facts.is_foreign:
        made.why.append("somebody else made it in configfs: it is served, and released not removed")
    if facts.pinned_release:
        made.why.append(f"its workers come from the release at {facts.pinned_release}")
    if facts.rollout and facts.is_moved_by_rollout:
        text = f"the rollout that moved it is {facts.rollout.replace('_', ' ')}"
        made.why.append(f"{text}: {facts.rollout_reason}" if facts.rollout_reason else text)


def _supervisor(facts: DeviceFacts, made: Explanation) -> None:
    if facts.service in ("recovering", "waiting") and not facts.standbys_ready:
        made.why.append(
            f"no standby worker is ready ({facts.standbys_wanted} wanted): one has to start first"
        )
    if facts.state_failure:
        made.why.append(f"state.db can not be written: {facts.state_failure}")
        made.to_do.append("free space for the state directory; what is served goes on meanwhile")


def told(rows: tuple[EventRow, ...]) -> list[str]:
    """The last events, one line each, oldest first; the same one in a row is told once."""
    groups: list[tuple[EventRow, EventRow, int]] = []
    for row in rows:
        if groups and (groups[-1][0].name, groups[-1][0].fields.get("reason")) == (
            row.name, row.fields.get("reason"),
        ):  # fmt: skip
            first, _, count = groups[-1]
            groups[-1] = (first, row, count + 1)
        else:
            groups.append((row, row, 1))
    return [_line(*group) for group in groups[-EVENTS_TOLD:]]


def _line(first: EventRow, last: EventRow, count: int) -> str:
    fields = " ".join(f"{key}={value}" for key, value in last.fields.items()).replace("\n", " ")
    times = f" ({count} times since {_clock(first.ts)})" if count > 1 else ""
    return f"{_clock(last.ts)} {last.name}{times} {fields}".rstrip()


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds)) + "Z"
