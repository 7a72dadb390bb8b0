"""A device whose workers die one after the other is left alone: its I/O waits, and comes back."""

from __future__ import annotations

import random
import signal
import threading
import time

from chaos.faults.base import Landing, Need, Site
from chaos.faults.environment import Watch
from chaos.rig.blank_image import BlankImage
from chaos.rig.node import wait_until
from chaos.rig.process import Process
from chaos.rig.victim import BLOCK_BYTES, Victim

__all__ = ["QUARANTINE_DEATHS", "Quarantine"]

QUARANTINE_DEATHS = 6  # what campaigns ask of their supervisor: its default's pauses take minutes
MOST_KILLS = 3 * QUARANTINE_DEATHS
BLOCK_CNT = 8
STANDS_STILL_S = 0.3  # nobody serves: that nothing is answered is looked at for so long


class Quarantine:
    kind = "quarantine"
    about = "workers of an idle device die until it is left alone: its I/O waits, `resume` ends it"
    needs = frozenset({Need.ROOT, Need.BLOCK_DEVICE, Need.SUPERVISED})

    def inflict(self, site: Site, chance: random.Random) -> Landing:
        watch, node = Watch(site), site.node
        image = BlankImage.make(node, site.folder, self.kind, BLOCK_CNT * BLOCK_BYTES)
        blocks = {number: chance.randbytes(BLOCK_BYTES) for number in range(BLOCK_CNT)}
        with Victim(node, self.kind, site.folder, (), (image.data, image.index)) as victim:
            wrong = [
                f"{victim.name} block {number}: the write failed"
                for number, content in blocks.items()
                if victim.write(number, content)
            ]
            watch.strike_now()
            killed = _kill_until_left_alone(site, victim)
            is_left_alone = _phase(site, victim) == "quarantined"
            if is_left_alone:  # and written: a supervisor that dies before that tries again
                wait_until(
                    lambda: bool(watch.events_of(victim.name, "device.quarantined")),
                    site.patience_s,
                    "the event of the quarantine",
                )
            supervisors_killed = 0
            if is_left_alone and chance.random() < 0.5:
                node.replace_supervisor()  # what is left alone stays so
                wait_until(node.is_answering, site.patience_s, "the next supervisor")
                supervisors_killed = 1
            waiting = _Waiting(victim, chance.randrange(BLOCK_CNT), chance.randbytes(BLOCK_BYTES))
            watch.wait_until_it_goes_on()  # nobody else suffers
            waiting.join(STANDS_STILL_S)
            was_waiting = waiting.is_alive() and _phase(site, victim) == "quarantined"
            explained = node.obdsup("device", "explain", victim.name)
            node.obdsup("device", "resume", victim.name)
            waiting.join(site.patience_s)
            served_ns = time.monotonic_ns()
            blocks[waiting.block] = waiting.content
            wrong += waiting.findings() + victim.misread(blocks)
            phase = _phase(site, victim)
        if "quarantine" not in str(explained):
            wrong.append(f"{victim.name}: `device explain` does not say why: {explained}")
        if site.is_alone and phase != "online":
            wrong.append(f"{victim.name} is {phase} after `device resume`")
        return watch.landing(
            has_landed=is_left_alone and was_waiting,
            evidence=f"left alone after {killed} deaths, a write waited until `device resume`",
            wrong=wrong,
            served_ns=served_ns,
            workers_killed=killed,
            supervisors_killed=supervisors_killed,
        )


def _kill_until_left_alone(site: Site, victim: Victim) -> int:
    """Kills each worker that has the device, before it has completed anything; how many."""
    killed, generation = 0, 0
    deadline = time.monotonic() + site.patience_s
    while killed < MOST_KILLS and time.monotonic() < deadline:
        counters = victim.journal.read()
        worker = Process.of(counters.owner_pid) if counters.owner_generation > generation else None
        if worker is not None and worker.send(signal.SIGKILL):
            generation = counters.owner_generation
            killed += 1
            worker.wait_gone(site.patience_s)
        elif _phase(site, victim) == "quarantined":
            break
        else:
            time.sleep(0.01)
    return killed


def _phase(site: Site, victim: Victim) -> str:
    row = site.node.device_row(victim.name)
    return str(row["phase"]) if row else "gone"


class _Waiting(threading.Thread):
    """A write and a read of the same block, which nobody answers for the moment."""

    def __init__(self, victim: Victim, block: int, content: bytes) -> None:
        super().__init__(name="quarantine-write", daemon=True)
        self.block, self.content = block, content
        self._victim = victim
        self._wrong: list[str] = []
        self.start()

    def run(self) -> None:
        if self._victim.write(self.block, self.content):
            self._wrong.append(f"{self._victim.name}: a write in quarantine got an error")
        self._wrong += self._victim.misread({self.block: self.content})

    def findings(self) -> list[str]:
        if self.is_alive():
            return [f"{self._victim.name}: a write is not answered after `device resume`"]
        return self._wrong
