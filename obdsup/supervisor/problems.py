"""What is wrong with the whole, and what to do next: a pure function over facts.

One entry per thing an operator would act on, the most urgent first; a list that is empty means
that nothing needs anybody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from obdsup.state.device import RolloutRow
from obdsup.supervisor.explain import DeviceFacts, explain

__all__ = ["Problem", "problems"]

_URGENT = ("quarantined", "failed", "blocked")
_PASSING = ("recovering", "rolling_back")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong."""

    what: str
    to_do: str
    device: str = ""

    def to_json(self) -> dict[str, object]:
        return {"what": self.what, "next": self.to_do, "device": self.device}


def problems(
    devices: list[DeviceFacts],
    *,
    standbys_ready: int,
    standbys_wanted: int,
    state_failure: str,
    rollout: RolloutRow | None,
    unclaimed: Mapping[str, str],
    rebuilt: Mapping[str, str],
) -> list[Problem]:
    """All of them. Pure.

    Args:
        devices: those that have rows.
        standbys_ready, standbys_wanted: numbers of workers.
        state_failure: why state.db can not be written.
        rollout: the last one.
        unclaimed: devices that live without a row, and why none could be made.
        rebuilt: devices whose rows were made anew by this supervisor, and from what.
    """
    found = []
    if state_failure:
        found.append(
            Problem(
                f"state.db can not be written: {state_failure}",
                "free space for the state directory, or make it writable; what is served goes on",
            )
        )
    found += [_of_unclaimed(name, reason) for name, reason in sorted(unclaimed.items())]
    for phase in (*_URGENT, *_PASSING):
        found += [_of_phase(facts) for facts in devices if facts.phase == phase]
    found += _of_standbys(standbys_ready, standbys_wanted)
    found += _of_rollout(rollout)
    for facts in devices:
        found += _of_errors(facts)
    found += [_of_rebuilt(name, text) for name, text in sorted(rebuilt.items())]
    return found


def _of_unclaimed(name: str, reason: str) -> Problem:
    return Problem(
        f"device {name} lives and is not managed: {reason}",
        "what serves it goes on; take away what does not agree (a config that was edited, a"
        " state.db of another time), then start the supervisor again",
        name,
    )


def _of_rebuilt(name: str, text: str) -> Problem:
    return Problem(
        f"device {name} was lost from state.db and {text}",
        f"compare `obdsup device show {name}` with what it should be; said until the next start",
        name,
    )


def _of_phase(facts: DeviceFacts) -> Problem:
    reason = facts.quarantine or facts.reason
    text = f"device {facts.name} is {facts.phase.replace('_', ' ')}"
    to_do = f"{explain(facts).to_do[0]}; see `obdsup device explain {facts.name}`"
    return Problem(f"{text}: {reason}" if reason else text, to_do, facts.name)


def _of_standbys(ready: int, wanted: int) -> list[Problem]:
    if not wanted or ready:
        return []
    return [
        Problem(
            f"no standby worker is ready, {wanted} wanted: a take-over would wait for one to start",
            "nothing if one is starting; if none gets ready: `obdsup events --event 'worker.*'`",
        )
    ]


def _of_rollout(rollout: RolloutRow | None) -> list[Problem]:
    if rollout is None:
        return []
    target = rollout.target or "the supervisor's own release"
    reason = f": {rollout.reason}" if rollout.reason else ""
    if rollout.state == "rolled_back":
        to_do = "find out why, then `obdsup upgrade --to` again; the devices are as they were"
        return [Problem(f"the rollout to {target} was rolled back{reason}", to_do)]
    if rollout.state == "failed":
        to_do = "`obdsup upgrade abort` tries again to take the devices back"
        return [Problem(f"the rollout to {target} got stuck{reason}", to_do)]
    return []


def _of_errors(facts: DeviceFacts) -> list[Problem]:
    see = f"see `obdsup device explain {facts.name}`"
    found = []
    if facts.medium_errors:
        found.append(
            Problem(
                f"device {facts.name}: {facts.medium_errors} command(s) ended with a medium error"
                + (f", {facts.poisoned} of them killed workers" if facts.poisoned else ""),
                f"check its image with `obdsup image verify`; {see}",
                facts.name,
            )
        )
    if facts.foreign_resets:
        found.append(
            Problem(
                f"device {facts.name}: another daemon reset its ring {facts.foreign_resets} times",
                f"stop whoever else serves rings here, e.g. overlaybd-tcmu; {see}",
                facts.name,
            )
        )
    return found
