"""Who serves a device: killed before, between and after all actions of the table, and again while
it starts, a supervisor ends with one server, or with a quarantine that was written down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain, count
from pathlib import Path

import pytest

from obdsup.errors import FormatError, ObdError, StateError
from obdsup.state.mirror import Mirror
from obdsup.supervisor import serving
from obdsup.supervisor.service_machine import TRANSITIONS, ServiceEvent, ServiceState, step
from tests.supervisor.interruptible import Host, Lifetime, Plan, lifetime

_S, _E = ServiceState, ServiceEvent
STRIDE = 4  # the second death is tried at every fourth place, which ones depends on the first
Story = Callable[[Lifetime], None]

# What the code that carries the actions out never gives: a first service makes a new journal.
NEVER_GIVEN = {(_S.ATTACHING, _E.JOURNAL_REFUSED)}


def refuses(op: str, *, code: str = "") -> Plan:
    error: ObdError = StateError("planted", code=code)
    return Plan({op: error if code else FormatError("/l0", 0, "good", "bad")})


def dies(op: str) -> Plan:
    return Plan(dies_in=op)


def attach(life: Lifetime) -> None:
    life.ask(_E.ATTACH_ASKED)


def asks(*events: ServiceEvent, plans: tuple[Plan, ...] = ()) -> Story:
    """Attached, then asked for one thing after the other."""

    def story(life: Lifetime) -> None:
        attach(life)
        life.host.plans.extend(plans)
        for event in events:
            life.ask(event)

    return story


def loses(*events: ServiceEvent, plans: tuple[Plan, ...] = ()) -> Story:
    """Attached, its worker lost, then asked."""

    def story(life: Lifetime) -> None:
        attach(life)
        life.host.plans.extend(plans)
        life.lose_worker()
        for event in events:
            life.ask(event)

    return story


def asks_first(event: ServiceEvent, *plans: Plan) -> Story:
    def story(life: Lifetime) -> None:
        life.host.plans.extend(plans)
        life.ask(event)

    return story


def crash_loop(life: Lifetime) -> None:
    attach(life)
    life.serving._deaths.free_failures = 0
    life.lose_worker()


def gives_up(life: Lifetime) -> None:
    attach(life)
    for _ in range(2):
        life.lose_worker()


def fails_to_reset(life: Lifetime) -> None:
    attach(life)
    life.host.plans.append(refuses("serve", code="OBD_E_JOURNAL"))
    life.host.fails_reset = True
    life.lose_worker()


def released_and_asked_again(life: Lifetime) -> None:
    attach(life)
    life.ask(_E.DRAIN_ASKED)
    life.serving.orphaned("its removal failed")
    life.serving.take_all()


def released_in_quarantine(life: Lifetime) -> None:
    gives_up(life)
    life.ask(_E.DRAIN_ASKED)
    life.serving.orphaned("its removal failed")
    life.serving.take_all()


def then(story: Story, *events: ServiceEvent) -> Story:
    def longer(life: Lifetime) -> None:
        story(life)
        for event in events:
            life.ask(event)

    return longer


def both_lost(life: Lifetime) -> None:
    """The standby refuses, and so does the old worker when it is asked again."""
    attach(life)
    life.host.plans.append(refuses("serve"))
    (old,) = life.host.servers()
    old.plan = refuses("serve")
    life.ask(_E.HANDOVER_ASKED)


def drain_refused(life: Lifetime) -> None:
    attach(life)
    (old,) = life.host.servers()
    old.plan = refuses("drain")
    life.ask(_E.DRAIN_ASKED)


BAD = (refuses("serve"),)
STORIES: dict[str, Story] = {
    "attached": asks(_E.ATTACH_ASKED, _E.RESUME_ASKED),
    "attach refused": asks_first(_E.ATTACH_ASKED, refuses("serve")),
    "attach dies": asks_first(_E.ATTACH_ASKED, dies("serve")),
    "drained before it was served": asks_first(_E.DRAIN_ASKED),
    "worker lost": loses(),
    "refused, tried again": loses(_E.RETRY_DUE, plans=(refuses("prewarm"),)),
    "refused, drained": loses(_E.DRAIN_ASKED, plans=BAD),
    "refused, moved": loses(_E.HANDOVER_ASKED, plans=BAD),
    "refused, attached": loses(_E.ATTACH_ASKED, plans=BAD),
    "refused, resumed": loses(_E.RESUME_ASKED, plans=BAD),
    "journal refused": loses(plans=(refuses("serve", code="OBD_E_JOURNAL"),)),
    "reset fails": fails_to_reset,
    "crash loop": crash_loop,
    "gives up": gives_up,
    "gives up taking over": loses(_E.RETRY_DUE, plans=(dies("serve"), dies("serve"))),
    "quarantined, resumed": then(gives_up, _E.RESUME_ASKED),
    "quarantined, asked": then(
        gives_up, _E.ATTACH_ASKED, _E.HANDOVER_ASKED, _E.DRAIN_ASKED, _E.DRAIN_ASKED
    ),
    "moved": asks(_E.HANDOVER_ASKED),
    "moved to one that refuses": asks(_E.HANDOVER_ASKED, plans=BAD),
    "moved to one that dies": asks(_E.HANDOVER_ASKED, plans=(dies("serve"),)),
    "both lost": both_lost,
    "drained": asks(_E.DRAIN_ASKED, _E.DRAIN_ASKED),
    "drain refused": drain_refused,
    "released, its removal failed": released_and_asked_again,
    "quarantined, its removal failed": released_in_quarantine,
}


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Callable[[], Host]]:
    """A new host at each call."""
    numbers, disk = count(), Mirror()
    made: list[Host] = []

    def make() -> Host:
        while made:
            made.pop().close()
        made.append(Host(tmp_path / str(next(numbers)), disk))
        return made[0]

    yield make
    while made:
        made.pop().close()


def start_again(host: Host, crash_at: int = -1) -> int:
    """A supervisor finds what is there; returns how many effects its start has."""
    host.plans.clear()
    host.fails_reset = False
    for one in host.workers.values():
        one.plan = Plan()
    with lifetime(host, crash_at) as life:
        life.adopt()
        if life.serving.state is _S.WAITING:
            life.ask(_E.RETRY_DUE)
    return life.effects


def check_end(host: Host) -> None:
    """One more supervisor: everything is as it must be, and what is asked for can be done."""
    with lifetime(host) as life:
        life.adopt()
        servers, row = host.servers(), life.serving.record.row
        if row.quarantine:
            assert (life.serving.state, servers) == (_S.QUARANTINED, [])
            assert life.ask(_E.RESUME_ASKED) is None
        elif not row.generation:
            assert (life.serving.state, servers) == (_S.UNSERVED, [])
            assert life.ask(_E.ATTACH_ASKED) is None
        assert life.serving.state is _S.SERVED
        (server,) = host.servers()
        served = server.served["a"]["generation"]
        assert life.serving.journal.generation() == served
        assert life.serving.record.row.generation >= served
        assert life.ask(_E.DRAIN_ASKED) is None
        assert (life.serving.state, host.servers()) == (_S.RELEASED, [])


@pytest.mark.parametrize("name", STORIES)
@pytest.mark.parametrize("is_lost", [True, False], ids=["queued lost", "queued written"])
def test_killed_anywhere_twice_one_worker_serves_in_the_end(
    hosts: Callable[[], Host], name: str, is_lost: bool
) -> None:
    with lifetime(hosts()) as whole:
        STORIES[name](whole)
    assert whole.effects
    for first in range(whole.effects):
        for second in chain([-1], count(first % STRIDE, STRIDE)):
            host = hosts()
            with lifetime(host, first, is_lost=is_lost) as life:
                STORIES[name](life)
            if start_again(host, second) < second:
                break
            check_end(host)


def test_the_stories_tell_of_every_transition(
    hosts: Callable[[], Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()

    def noted(state: ServiceState, event: ServiceEvent, now: float) -> object:
        seen.add((state, event))
        return step(state, event, now)

    monkeypatch.setattr(serving, "step", noted)
    for story in STORIES.values():
        with lifetime(hosts()) as life:
            story(life)
        start_again(life.host)
    told = {pair for pair, (_, actions) in TRANSITIONS.items() if actions}
    assert told - seen == NEVER_GIVEN
