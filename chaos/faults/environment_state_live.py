"""state.db damaged under a running supervisor: found, said, made anew; nobody else notices."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

from chaos.faults.base import Landing, Need, Site
from chaos.faults.environment import Watch
from chaos.rig.kills import Killer, Kind
from chaos.rig.node import wait_until
from chaos.rig.supervision import stop_supervisor

__all__ = ["DamagedState"]

PAGE_BYTES = 4096


class DamagedState:
    """Its database is damaged, then its worker dies, then the supervisor itself.

    The file must be made anew before the supervisor dies: its successor finds a sound one.
    """

    kind = "state-db-damaged"
    about = "state.db is damaged while the supervisor runs: made anew and said; then both die"
    needs = frozenset({Need.SUPERVISED})

    def inflict(self, site: Site, chance: random.Random) -> Landing:
        node, watch = site.node, Watch(site)
        watch.wait_for_supervisor()
        name, damage = chance.choice(sorted(DAMAGES.items()))
        before = _rebuilt(site)
        watch.strike_now()
        damage(node.state_dir / "state.db", chance)
        wait_until(lambda: _rebuilt(site) != before, site.patience_s, "state.db is made anew")
        said = _rebuilt(site)
        landed = Killer(node, site.device.journal.read, wait_until, site.patience_s).kill(
            Kind.WORKER
        )
        watch.wait_until_it_goes_on()
        failure = str(node.ask("status")["state_failure"])
        stop_supervisor(node)
        node.start_supervisor()
        watch.wait_for_supervisor()
        row = node.device_row(site.device.name)
        wrong = [f"{name}: state.db is not written: {failure}"] if failure else []
        if row is None:
            wrong.append(f"{name}: {site.device.name} was forgotten")
        if _rebuilt(site):
            wrong.append(f"{name}: the file that was made anew was not sound: {_rebuilt(site)}")
        watch.wait_until_it_goes_on()
        return watch.landing(
            has_landed=said != before,
            evidence=f"{name}: {said}; {landed.recovered} in flight at the death of the worker",
            wrong=wrong,
            workers_killed=1,
            supervisors_killed=1,
        )


def _rebuilt(site: Site) -> str:
    """When and why state.db was made anew by the supervisor that runs, "" when it was not."""
    return str(site.node.ask("status")["state_rebuilt"])


def _first_pages(path: Path, chance: random.Random) -> None:
    with path.open("r+b") as file:
        file.write(chance.randbytes(PAGE_BYTES * chance.randint(1, 4)))


def _cut(path: Path, chance: random.Random) -> None:
    os.truncate(path, chance.randrange(PAGE_BYTES))


def _deleted(path: Path, chance: random.Random) -> None:
    path.unlink()


def _replaced(path: Path, chance: random.Random) -> None:
    path.unlink()
    path.write_bytes(chance.randbytes(chance.randrange(1, 1 << 20)))


DAMAGES: dict[str, Callable[[Path, random.Random], None]] = {
    "first-pages": _first_pages,
    "cut": _cut,
    "deleted": _deleted,
    "replaced": _replaced,
}
