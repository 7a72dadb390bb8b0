"""What the three machines share: a total table of transitions, its check and its picture."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple, TypeVar

__all__ = ["IllegalTransition", "Next", "diagram", "look_up"]

S = TypeVar("S", bound=Enum)


class IllegalTransition(Exception):
    """An event that can not happen in this state did: a bug of the supervisor."""


class Next(NamedTuple):
    """The state an event leads to and the ordered actions it causes."""

    state: Enum
    actions: tuple[Enum, ...]


def look_up(table: Mapping[tuple[Enum, Enum], Next], state: Enum, event: Enum) -> Next:
    """The transition of one pair.

    Raises:
        IllegalTransition: the pair is not in the table.
    """
    found = table.get((state, event))
    if found is None:
        raise IllegalTransition(f"{type(state).__name__}.{state.name} got {event.name}")
    return found


def diagram(table: Mapping[tuple[Enum, Enum], Next]) -> str:
    """One line per transition, in table order; module docstrings carry it and a test compares."""
    lines = []
    for (state, event), (target, actions) in table.items():
        does = ", ".join(action.name.lower() for action in actions) or "-"
        lines.append(f"    {state.name} --{event.name}--> {target.name}: {does}")
    return "\n".join(lines)
