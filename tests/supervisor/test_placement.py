"""Which worker serves which device."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from obdsup.supervisor.placement import (
    Lodger,
    Seat,
    choose,
    is_over_full,
    memory_limit,
    next_move,
)

ALONE = Lodger("alone")
SUSPECT = Lodger("suspect", is_suspect=True)
STANDBY, COLD = Seat("warm"), Seat("cold", is_warm=False)
TAKEN = Seat("taken", (Lodger("other"),))
SETTLED = Seat("settled", (Lodger("other"),), is_settled=True)


def test_a_device_that_wants_its_own_worker_gets_a_standby_warm_ones_first() -> None:
    assert choose(ALONE, [TAKEN, COLD, STANDBY]) == "warm"
    assert choose(ALONE, [TAKEN, COLD]) == "cold"
    assert choose(ALONE, [TAKEN, COLD], is_warm=True) is None
    assert choose(ALONE, [TAKEN, SETTLED]) is None


def test_devices_that_share_fill_the_fullest_worker_with_room() -> None:
    sharing = Lodger("new", per_worker=3)
    one = Seat("one", (Lodger("a", per_worker=3),), is_settled=True)
    two = Seat("two", (Lodger("b", per_worker=3), Lodger("c", per_worker=4)), is_settled=True)
    full = Seat("full", tuple(Lodger(name, per_worker=3) for name in "def"))
    assert choose(sharing, [STANDBY, one, two, full]) == "two"
    assert choose(sharing, [STANDBY, one, full]) == "one"
    assert choose(sharing, [STANDBY, full]) == "warm"


def test_nobody_is_put_with_a_device_that_allows_fewer_or_another_limit() -> None:
    sharing = Lodger("new", per_worker=3)
    assert choose(sharing, [Seat("strict", (Lodger("a", per_worker=1),))]) is None
    limited = Lodger("a", per_worker=3, memory_max_bytes=1 << 20)
    assert choose(sharing, [Seat("limited", (limited,))]) is None


def test_in_an_emergency_devices_crowd_where_fewest_are() -> None:
    many = Seat("many", (Lodger("a"), Lodger("b")))
    assert choose(ALONE, [many, TAKEN, SETTLED], may_crowd=True) == "taken"
    assert choose(ALONE, [many, TAKEN, STANDBY], may_crowd=True) == "warm"
    assert choose(ALONE, [SETTLED], may_crowd=True) is None


def test_in_a_rush_devices_crowd_only_where_others_went_just_now() -> None:
    """The rest may have died with their workers, and that is not noticed yet."""
    old = Seat("old", (Lodger("a"),), is_fresh=False)
    fresh = Seat("fresh", (Lodger("b"), Lodger("c")))
    assert choose(ALONE, [old, fresh], may_crowd=True, is_rush=True) == "fresh"
    assert choose(ALONE, [old], may_crowd=True, is_rush=True) is None
    assert choose(ALONE, [old, fresh], may_crowd=True) == "old"
    assert choose(ALONE, [old, STANDBY], may_crowd=True, is_rush=True) == "warm"


def test_suspects_are_alone() -> None:
    sharing = Lodger("new", per_worker=9, is_suspect=True)
    roomy = Seat("roomy", (Lodger("a", per_worker=9),))
    assert choose(sharing, [roomy], may_crowd=True) is None
    assert choose(SUSPECT, [roomy, STANDBY], may_crowd=True) == "warm"
    assert choose(ALONE, [Seat("bad", (SUSPECT,))], may_crowd=True) is None


def test_suspects_leave_a_crowd_first() -> None:
    crowd = Seat("crowd", (Lodger("a"), Lodger("b"), SUSPECT))
    fuller = Seat("fuller", tuple(Lodger(name) for name in "cdefg"))
    assert next_move([fuller, crowd]) == "suspect"
    assert next_move([fuller, crowd], frozenset({"suspect"})) == "c"
    assert next_move([TAKEN, SETTLED]) is None


def test_a_memory_limit_holds_only_where_all_have_one() -> None:
    assert memory_limit([]) == 0
    assert memory_limit([Lodger("a", memory_max_bytes=5), Lodger("b", memory_max_bytes=7)]) == 7
    assert memory_limit([Lodger("a", memory_max_bytes=5), Lodger("b")]) == 0


lodgers = st.builds(
    Lodger, st.uuids().map(str), st.integers(1, 5), st.sampled_from([0, 1 << 20]), st.booleans()
)


@given(st.lists(lodgers, max_size=20, unique_by=lambda one: one.name))
def test_placing_without_an_emergency_never_fills_a_worker_too_much(found: list[Lodger]) -> None:
    seats: dict[str, Seat] = {}
    for lodger in found:
        chosen = choose(lodger, [*seats.values(), Seat("new")])
        assert chosen is not None
        name = f"w{len(seats)}" if chosen == "new" else chosen
        before = seats[name].lodgers if name in seats else ()
        seats[name] = Seat(name, (*before, lodger))
    assert not any(is_over_full(seat) for seat in seats.values())


@given(st.lists(lodgers, min_size=1, max_size=20, unique_by=lambda one: one.name))
def test_spreading_a_crowd_ends_with_everybody_where_it_may_be(found: list[Lodger]) -> None:
    seats = {"crowd": Seat("crowd", tuple(found))}
    for _ in range(2 * len(found)):
        name = next_move(list(seats.values()))
        if name is None:
            break
        (source,) = [s for s in seats.values() if name in [one.name for one in s.lodgers]]
        (lodger,) = [one for one in source.lodgers if one.name == name]
        others = [seat for seat in seats.values() if seat is not source]
        chosen = choose(lodger, [*others, Seat("new")])
        target = f"w{len(seats)}" if chosen == "new" else str(chosen)
        before = seats[target].lodgers if target in seats else ()
        seats[target] = Seat(target, (*before, lodger))
        left = tuple(one for one in source.lodgers if one.name != name)
        seats[source.worker_id] = Seat(source.worker_id, left)
    assert next_move(list(seats.values())) is None
