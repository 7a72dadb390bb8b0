"""Planned moves under load: another release and back, a rollout that is cut, a re-exec.

A move has landed when the watched device was served by a worker of the other release (or the
supervisor by another program image) with commands completed meanwhile.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import threading
import time
from pathlib import Path

from chaos.faults.base import Landing, Need, Site
from chaos.faults.environment import Watch
from chaos.rig.node import wait_until
from chaos.rig.problem import RigError
from chaos.rig.process import Process
from chaos.rig.releases import make_release
from obdsup.errors import ObdError

__all__ = ["Reexec", "Upgrade", "UpgradeCut"]

SUPERVISED = frozenset({Need.SUPERVISED})
OTHER_VERSION = "0.0.1"
WATCH_S = 0.3
# Of a rollout that is over; a rollout that was cut may still be rolling back.
ENDED = frozenset({"done", "rolled_back", "failed", "idle"})


class Upgrade:
    kind = "upgrade"
    about = "every device moves to another release, watched in batches, and back again"
    needs = SUPERVISED

    def inflict(self, site: Site, chance: random.Random) -> Landing:
        watch = Watch(site)
        home = _home(site)
        watch.strike_now()
        with _OtherRelease(site) as other:
            _upgrade(site, other, batch=chance.randint(1, 4))
            there = _release_of(site)
            _upgrade(site, home, batch=chance.randint(1, 4))
            back = _release_of(site)
        watch.wait_until_it_goes_on()
        after = site.device.journal.read()
        return watch.landing(
            has_landed=there == OTHER_VERSION,
            evidence=f"served by {there}, then by {back}; "
            f"{after.completed - watch.before.completed} commands meanwhile",
            wrong=[] if back != OTHER_VERSION else ["the device is left on the other release"],
        )


class UpgradeCut:
    kind = "upgrade-cut"
    about = "a rollout is cut at a random moment by the death of worker, supervisor or both"
    needs = SUPERVISED

    def inflict(self, site: Site, chance: random.Random) -> Landing:
        watch = Watch(site)
        home = _home(site)
        victim = chance.choice(("worker", "supervisor", "both"))
        with _OtherRelease(site) as other:
            client = _start_upgrade(site, other, batch=chance.randint(1, 4))
            time.sleep(chance.uniform(0.0, 1.5))
            watch.strike_now()
            state = _state(site)
            killed_workers, killed_supervisors = _cut(site, victim)
            client.join(site.patience_s)
            wait_until(lambda: _state(site) in ENDED, site.patience_s, "the end of the cut rollout")
            end = _state(site)
            watch.wait_until_it_goes_on()
            served_ns = time.monotonic_ns()
            wrong = [] if end in ("done", "rolled_back") else [f"the cut rollout ended {end}"]
            if end == "done":
                _upgrade(site, home, batch=4)
        if _release_of(site) == OTHER_VERSION:
            wrong.append("the device is left on the other release")
        return watch.landing(
            has_landed=state not in ENDED,
            evidence=f"{victim} died while the rollout was {state}: it ended {end}",
            wrong=wrong,
            served_ns=served_ns,
            workers_killed=killed_workers,
            supervisors_killed=killed_supervisors,
        )


class Reexec:
    kind = "reexec"
    about = "the supervisor replaces its own program; pid, workers and devices stay"
    needs = SUPERVISED

    def inflict(self, site: Site, chance: random.Random) -> Landing:
        watch = Watch(site)
        before = site.node.supervisor()
        started = site.node.ask("status")["started"]
        watch.strike_now()
        site.node.ask("reexec")
        wait_until(
            lambda: site.node.is_answering() and site.node.ask("status")["started"] != started,
            site.patience_s,
            "the supervisor after its re-exec",
        )
        watch.wait_until_it_goes_on()
        served_ns = time.monotonic_ns()
        wrong = [] if watch.is_same_worker() or not site.is_alone else ["the worker changed"]
        if site.is_alone and site.node.supervisor() != before:
            wrong.append("the supervisor is another process")
        watch.wait_for_supervisor()
        done = site.device.journal.read().completed - watch.before.completed
        return watch.landing(
            has_landed=True,  # the wait above ends only when another program image answers
            evidence=f"supervisor {before.pid} goes on, {done} commands served meanwhile",
            wrong=wrong,
            served_ns=served_ns,
        )


class _OtherRelease:
    """An installed release beside the one under test, of the same build."""

    def __init__(self, site: Site) -> None:
        self._root = site.folder / "other-release"
        self._package = site.node.package

    def __enter__(self) -> Path:
        shutil.rmtree(self._root, ignore_errors=True)
        return make_release(self._root, OTHER_VERSION, package=self._package)

    def __exit__(self, *ended: object) -> None:
        shutil.rmtree(self._root, ignore_errors=True)


def _home(site: Site) -> str:
    """The release that the supervisor itself runs from."""
    return str(site.node.ask("upgrade.status")["release_of_supervisor"])


def _upgrade(site: Site, to: Path | str, *, batch: int) -> None:
    """A rollout to its end.

    Raises:
        RigError: it did not end well.
    """
    try:
        site.node.ask("upgrade", to=str(to), canary=1, batch=batch, watch_s=WATCH_S)
    except ObdError as error:
        raise RigError(f"the rollout of {to}: {error}") from error


def _start_upgrade(site: Site, to: Path, *, batch: int) -> threading.Thread:
    """Asks for a rollout and does not wait; how it ends is asked later: whom we asked may die."""

    def ask() -> None:
        with contextlib.suppress(RigError):
            _upgrade(site, to, batch=batch)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    return thread


def _cut(site: Site, victim: str) -> tuple[int, int]:
    """Kills; starts what systemd would start again. How many workers and supervisors died."""
    worker = Process.of(site.device.journal.read().owner_pid)
    killed = 0
    if victim in ("worker", "both") and worker is not None:
        killed = int(worker.send(signal.SIGKILL))
    if victim == "worker":
        return killed, 0
    site.node.replace_supervisor()
    wait_until(site.node.is_answering, site.patience_s, "the next supervisor")
    return killed, 1


def _state(site: Site) -> str:
    """Of the last rollout; "unknown" while nobody answers."""
    try:
        return str(site.node.ask("upgrade.status")["state"])
    except ObdError:
        return "unknown"


def _release_of(site: Site) -> str:
    """The version of the worker that serves the device."""
    row = site.node.device_row(site.device.name)
    worker = row and row["worker"]
    return str(worker["release"]) if worker else ""
