"""A command that every worker dies of, on a device of the fault's own: it alone gets an error."""

from __future__ import annotations

import random
import time

from chaos.faults.base import Landing, Need, Site
from chaos.faults.environment import Watch
from chaos.faults.quarantine import QUARANTINE_DEATHS
from chaos.rig.blank_image import BlankImage
from chaos.rig.failpoints import Action
from chaos.rig.node import wait_until
from chaos.rig.problem import RigError
from chaos.rig.victim import BLOCK_BYTES, Victim

__all__ = ["PoisonedCommand"]

# Beyond the end of every device under load: the point is passed by commands of all devices.
SIZE_BYTES = 1 << 42
FIRST_BLOCK = (SIZE_BYTES // 2) // BLOCK_BYTES
BLOCK_CNT = 16
SECTORS_PER_BLOCK = BLOCK_BYTES // 512
MOST_DEATHS = QUARANTINE_DEATHS - 1


class PoisonedCommand:
    kind = "poisoned-command"
    about = "each worker that reads one block of a device dies of it: an error there, nowhere else"
    needs = frozenset({Need.ROOT, Need.BLOCK_DEVICE, Need.SUPERVISED, Need.HOOKS})

    def inflict(self, site: Site, chance: random.Random) -> Landing:
        points = site.failpoints
        if points is None:
            raise RigError(f"{self.kind} needs a build with test hooks")
        watch = Watch(site)
        image = BlankImage.make(site.node, site.folder, self.kind, SIZE_BYTES)
        blocks = {FIRST_BLOCK + n: chance.randbytes(BLOCK_BYTES) for n in range(BLOCK_CNT)}
        poisoned = chance.choice(sorted(blocks))
        with Victim(site.node, self.kind, site.folder, (), (image.data, image.index)) as victim:
            wrong = [
                f"{victim.name} block {number}: the write failed"
                for number, content in blocks.items()
                if victim.write(number, content)
            ]
            kernel_lines = victim.kernel_lines()
            watch.strike_now()
            entry = points.arm(
                "command.run", Action.SIGSEGV, repeat=MOST_DEATHS,
                lba=poisoned * SECTORS_PER_BLOCK,
            )  # fmt: skip
            first = len(points.hits())
            wrong += victim.misread(blocks, failing=frozenset({poisoned}))
            served_ns = time.monotonic_ns()
            was_armed = points.is_armed(entry)
            points.disarm()
            deaths = len(points.hits()) - first
            wrong += victim.misread(blocks)  # whole again: nothing of the data was lost
            row = site.node.device_row(victim.name) or {}
            wait_until(
                lambda: bool(watch.events_of(victim.name, "command.poisoned")),
                site.patience_s,
                "the event of the poisoned command",
            )
        watch.wait_until_it_goes_on()
        if not was_armed:
            wrong.append(f"more than {MOST_DEATHS} workers died of it")
        if not row.get("poisoned"):
            wrong.append(f"{victim.name} does not count the poisoned command")
        return watch.landing(
            has_landed=deaths > 0,
            evidence=f"{deaths} workers died of block {poisoned}, then it alone got an error",
            wrong=wrong,
            served_ns=served_ns,
            workers_killed=deaths,
            kernel_lines=kernel_lines,
        )
