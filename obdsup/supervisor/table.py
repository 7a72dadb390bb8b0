"""What the life-cycle machines share: a total table of transitions, its check and its picture."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Generic, NamedTuple, TypeVar

__all__ = ["IllegalTransition", "Next", "diagram", "illegal_pairs", "look_up"]

S = TypeVar("S", bound=Enum)
E = TypeVar("E", bound=Enum)
A = TypeVar("A", bound=Enum)


class IllegalTransition(Exception):
    """An event that can not happen in this state did: a bug of the supervisor."""


class Next(NamedTuple, Generic[S, A]):
    """The state an event leads to and the ordered actions it causes."""

    state: S
    actions: tuple[A, ...]


def illegal_pairs(
    states: type[S], legal_only_while: Mapping[E, frozenset[S]]
) -> frozenset[tuple[S, E]]:
    """Every pair of a state and an event that is not legal in it."""
    return frozenset(
        (state, event)
        for event, legal in legal_only_while.items()
        for state in states
        if state not in legal
    )


def look_up(table: Mapping[tuple[S, E], Next[S, A]], state: S, event: E) -> Next[S, A]:
    """The transition of one pair.

    Raises:
        IllegalTransition: the pair is not in the table.
    """
    found = table.get((state, event))
    if found is None:
        raise IllegalTransition(f"{type(state).__name__}.{state.name} got {event.name}")
    return found


def diagram(table: Mapping[tuple[S, E], Next[S, A]]) -> str:
    """One line per transition, in table order; module docstrings carry it and a test compares."""
    lines = []
    for (state, event), (target, actions) in table.items():
        does = ", ".join(action.name.lower() for action in actions) or "-"
        lines.append(f"    {state.name} --{event.name}--> {target.name}: {does}")
    return "\n".join(lines)
