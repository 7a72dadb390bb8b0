"""Disks: the one below a writable layer fills, the one below the state directory fills."""

from __future__ import annotations

import random
import signal
import time

from chaos.faults.base import Landing, Need, Site
from chaos.faults.environment import Watch
from chaos.rig.kills import Killer, Kind
from chaos.rig.node import wait_until
from chaos.rig.problem import RigError
from chaos.rig.process import Process
from chaos.rig.small_disk import SmallDisk
from chaos.rig.state_disk import StateDisk
from chaos.rig.victim import SPACE_ERRNOS, Victim

__all__ = ["FullDisk", "FullStateDisk"]

DISK_MIB = 16
WRITABLE_BYTES = 4 << 20  # what fits before the disk is full
VICTIM_BYTES = 32 << 20
CHUNK_BYTES = 256 << 10
STATE_MIB = 32


class FullDisk:
    """Writes until the upper's disk is full, and on after it was given space."""

    kind = "full-disk"
    about = "the disk below a writable layer fills: writes fail, reads go on, it heals with space"
    needs = frozenset({Need.ROOT, Need.BLOCK_DEVICE, Need.SUPERVISED})

    def inflict(self, site: Site, chance: random.Random) -> Landing:
        watch = Watch(site)
        with SmallDisk(site.folder / "upper-disk", DISK_MIB) as disk:
            upper = (disk.mount_point / "data", disk.mount_point / "index")
            size = ("--size", str(VICTIM_BYTES))
            site.node.obdsup("image", "new-upper", *size, *map(str, upper))
            disk.fill(leave_bytes=WRITABLE_BYTES)
            with Victim(site.node, self.kind, site.folder, (), upper) as victim:
                watch.strike_now()
                return self._fill_up(watch, victim, disk, chance)

    def _fill_up(
        self, watch: Watch, victim: Victim, disk: SmallDisk, chance: random.Random
    ) -> Landing:
        acknowledged: dict[int, bytes] = {}
        error, number = 0, 0
        while not error and number < VICTIM_BYTES // CHUNK_BYTES:
            content = chance.randbytes(CHUNK_BYTES)
            error = victim.write(number, content)
            if not error:
                acknowledged[number] = content
                number += 1
        left_bytes = disk.free_bytes()
        wrong = victim.misread(acknowledged)
        workers_killed = 0
        if chance.random() < 0.5:  # a take-over with a full disk
            workers_killed = _kill_worker(watch.site, victim)
            wrong += victim.misread(acknowledged)
        disk.free()
        healed = {number + n: chance.randbytes(CHUNK_BYTES) for n in range(4)}
        for block, content in healed.items():
            refused = victim.write(block, content)
            if refused:
                wrong.append(f"{victim.name} block {block}: errno {refused} with space again")
        wrong += victim.misread({**acknowledged, **healed})
        served_ns = time.monotonic_ns()
        watch.wait_until_it_goes_on()
        if not watch.is_same_worker():
            wrong.append(f"{watch.site.device.name} has another worker, nothing was done to it")
        return watch.landing(
            has_landed=error in SPACE_ERRNOS and left_bytes < CHUNK_BYTES,
            evidence=f"write {number} of {CHUNK_BYTES} bytes failed with errno {error}, "
            f"{left_bytes} bytes were free; {workers_killed} take-overs on the full disk",
            wrong=wrong,
            served_ns=served_ns,
            workers_killed=workers_killed,
            kernel_lines=victim.kernel_lines(),
        )


class FullStateDisk:
    """state.db can not grow while the worker is killed: the take-over must happen all the same."""

    kind = "full-state-disk"
    about = "the state directory's disk is full at a take-over; it is written again with space"
    needs = frozenset({Need.ROOT, Need.SUPERVISED})

    def inflict(self, site: Site, chance: random.Random) -> Landing:
        node, watch = site.node, Watch(site)
        with StateDisk(node, site.folder / "state-disk", STATE_MIB, "tmpfs") as state:
            watch.wait_for_supervisor()
            state.disk.fill()
            # What is queued takes the room SQLite has left in its log.
            wait_until(lambda: bool(_failure(site)), site.patience_s, "state.db can not grow")
            said = _failure(site)
            watch.strike_now()
            killer = Killer(node, site.device.journal.read, wait_until, site.patience_s)
            kind = Kind.BOTH if chance.random() < 0.3 else Kind.WORKER
            landed = killer.kill(kind)
            watch.wait_until_it_goes_on()
            watch.wait_for_supervisor()
            wait_until(lambda: bool(_failure(site)), site.patience_s, "state.db is still full")
            state.disk.free()
            wrong = _is_written_again(site, watch)
        watch.wait_for_supervisor()
        return watch.landing(
            has_landed="full" in said,
            evidence=f"state_failure was {said!r} at the death of {kind.value}, "
            f"{landed.recovered} in flight",
            wrong=wrong,
            served_ns=landed.served_ns,
            workers_killed=2,
            supervisors_killed=2 + int(kind is Kind.BOTH),
        )


def _failure(site: Site) -> str:
    """Why state.db was not written at last, "" when it was."""
    return str(site.node.ask("status")["state_failure"])


def _is_written_again(site: Site, watch: Watch) -> list[str]:
    """Waits until state.db takes writes again, those of the next take-over too."""
    wait_until(lambda: not _failure(site), site.patience_s, "state.db is written again")
    last = watch.last_event()
    wait_until(site.node.has_standby, site.patience_s, "a warm standby")
    killer = Killer(site.node, site.device.journal.read, wait_until, site.patience_s)
    killer.kill(Kind.WORKER)
    if watch.events_since(last, "takeover.done"):
        return []
    return [f"the take-over of {site.device.name} after space was there again is in no event"]


def _kill_worker(site: Site, victim: Victim) -> int:
    """SIGKILL of the victim's worker; returns when the next one serves it."""
    wait_until(site.node.has_standby, site.patience_s, "a warm standby")
    before = victim.journal.read()
    worker = Process.of(before.owner_pid)
    if worker is None or not worker.send(signal.SIGKILL):
        raise RigError(f"worker {before.owner_pid} of {victim.name} is gone")
    victim.read(0)  # waits for the successor
    after = victim.journal.read()
    if after.owner_generation <= before.owner_generation:
        raise RigError(f"{victim.name} answers under generation {after.owner_generation} still")
    return 1
