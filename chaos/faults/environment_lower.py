"""Lower files: slow, silent, failing, corrupt. The victim suffers exactly that, others nothing."""

from __future__ import annotations

import os
import random
import threading
import time
from pathlib import Path

from chaos.faults.base import Landing, Need, Site
from chaos.faults.environment import Watch
from chaos.rig.faultfs import FaultFs
from chaos.rig.kills import Killer, Kind
from chaos.rig.node import wait_until
from chaos.rig.victim import Victim, VictimLayer

__all__ = ["CorruptBlock", "FailingLower", "SilentLower", "SlowLower"]

VICTIM_NEEDS = frozenset({Need.ROOT, Need.BLOCK_DEVICE, Need.SUPERVISED})
DELAY_MS = (50, 250)
SLOW_READS = 4


class SlowLower:
    """Each read of the lower file takes some tenth of a second."""

    kind = "slow-lower"
    about = "a device's lower file is slow: its reads take as long, no worker is killed for it"
    needs = VICTIM_NEEDS

    def inflict(self, site: Site, chance: random.Random) -> Landing:
        watch = Watch(site)
        layer = VictimLayer.make(site.node, site.folder / "slow", chance)
        delay_ms = chance.randint(*DELAY_MS)
        with (
            FaultFs(layer.path.parent, site.folder / "faultfs") as faulty,
            Victim(site.node, self.kind, site.folder, (faulty.mount_point / layer.path.name,))
            as victim,
        ):  # fmt: skip
            kernel_lines = victim.kernel_lines()
            owner = victim.journal.read().owner_pid
            watch.strike_now()
            faulty.delay(layer.path.name, delay_ms)
            numbers = chance.sample(range(len(layer.blocks)), SLOW_READS)
            wrong, taken_ms = [], []
            for number in numbers:
                before = faulty.counts().delayed
                begun_ns = time.monotonic_ns()
                wrong += victim.misread({number: layer.blocks[number]})
                taken_ms.append((time.monotonic_ns() - begun_ns) / 1e6)
                watch.wait_until_it_goes_on()
                if faulty.counts().delayed == before:
                    taken_ms.pop()  # never reached the file: proves nothing
            faulty.clear()
            wrong += victim.misread(dict(enumerate(layer.blocks)))
            if victim.journal.read().owner_pid != owner:
                wrong.append(f"worker {owner} of the slow device did not live through it")
            served_ns = time.monotonic_ns()
        wrong += _unhurt(watch)
        return watch.landing(
            has_landed=bool(taken_ms) and min(taken_ms) >= delay_ms,
            evidence=f"{len(taken_ms)} reads delayed by {delay_ms} ms took "
            f"{min(taken_ms, default=0):.0f} to {max(taken_ms, default=0):.0f} ms",
            wrong=wrong,
            served_ns=served_ns,
            kernel_lines=kernel_lines,
        )


class SilentLower:
    """A lower file does not answer at all, then the worker of another device is killed.

    The standby has the silent image open too, or tries to: it must take over all the same.
    """

    kind = "silent-lower"
    about = "a device's lower file hangs; another device's worker is killed and replaced meanwhile"
    needs = VICTIM_NEEDS

    def inflict(self, site: Site, chance: random.Random) -> Landing:
        watch = Watch(site)
        layer = VictimLayer.make(site.node, site.folder / "silent", chance)
        with (
            FaultFs(layer.path.parent, site.folder / "faultfs") as faulty,
            Victim(site.node, self.kind, site.folder, (faulty.mount_point / layer.path.name,))
            as victim,
        ):  # fmt: skip
            kernel_lines = victim.kernel_lines()
            owner = victim.journal.read().owner_pid
            number = chance.randrange(len(layer.blocks))
            answers: list[bytes | int] = []
            faulty.hold(layer.path.name)
            reader = threading.Thread(target=lambda: answers.append(victim.read(number)))
            reader.start()
            try:
                wait_until(lambda: faulty.counts().holding > 0, site.patience_s, "a held read")
                watch.strike_now()
                wait_until(site.node.has_standby, site.patience_s, "a warm standby")
                landed = Killer(
                    site.node, site.device.journal.read, wait_until, site.patience_s
                ).kill(Kind.WORKER)
                watch.wait_until_it_goes_on()
                held, was_answered = faulty.counts().holding, bool(answers)
            finally:
                faulty.clear()
                reader.join(site.patience_s)
            wrong = [] if answers == [layer.blocks[number]] else ["the held read came back wrong"]
            wrong += victim.misread(dict(enumerate(layer.blocks)))
            if victim.journal.read().owner_pid != owner:
                wrong.append(f"worker {owner} of the silent device did not live through it")
        return watch.landing(
            has_landed=held > 0 and not was_answered,
            evidence=f"{held} reads held while {site.device.name} was taken over, "
            f"{landed.recovered} in flight",
            wrong=wrong,
            served_ns=landed.served_ns,
            workers_killed=1,
            kernel_lines=kernel_lines,
        )


class FailingLower:
    """Reads of one block of the lower file fail, for a while."""

    kind = "failing-lower"
    about = "one place of a device's lower file fails: EIO there and nowhere else, then it heals"
    needs = VICTIM_NEEDS

    def inflict(self, site: Site, chance: random.Random) -> Landing:
        watch = Watch(site)
        is_compressed = chance.random() < 0.5
        layer = VictimLayer.make(
            site.node, site.folder / "failing", chance, is_compressed=is_compressed
        )
        number = chance.randrange(len(layer.blocks))
        begin, end = layer.place(number)
        with (
            FaultFs(layer.path.parent, site.folder / "faultfs") as faulty,
            Victim(site.node, self.kind, site.folder, (faulty.mount_point / layer.path.name,))
            as victim,
        ):  # fmt: skip
            kernel_lines = victim.kernel_lines()
            before = victim.journal.read()
            watch.strike_now()
            faulty.fail(layer.path.name, begin, end)
            blocks = dict(enumerate(layer.blocks))
            wrong = victim.misread(blocks, frozenset({number}))
            failed = faulty.counts().failed
            faulty.clear()
            wrong += victim.misread(blocks)
            after = victim.journal.read()
            if after.owner_pid != before.owner_pid:
                wrong.append(f"worker {before.owner_pid} of the failing device did not live on")
            served_ns = time.monotonic_ns()
        errors = after.medium_errors - before.medium_errors
        return watch.landing(
            has_landed=failed > 0 and errors > 0,
            evidence=f"{failed} reads of bytes {begin} to {end} failed, {errors} MEDIUM ERRORs, "
            f"block {number} of {len(blocks)}, {'ZFile' if is_compressed else 'raw'}",
            wrong=wrong + _unhurt(watch),
            served_ns=served_ns,
            kernel_lines=kernel_lines,
        )


class CorruptBlock:
    """One bit of one ZFile block flips, and flips back."""

    kind = "corrupt-block"
    about = "one bit of a compressed lower file flips: EIO for that block alone, until repaired"
    needs = VICTIM_NEEDS

    def inflict(self, site: Site, chance: random.Random) -> Landing:
        watch = Watch(site)
        layer = VictimLayer.make(site.node, site.folder / "corrupt", chance)
        number = chance.randrange(len(layer.blocks))
        place = chance.randrange(*layer.place(number))
        blocks = dict(enumerate(layer.blocks))
        with Victim(site.node, self.kind, site.folder, (layer.path,)) as victim:
            kernel_lines = victim.kernel_lines()
            before = victim.journal.read()
            watch.strike_now()
            mask = 1 << chance.randrange(8)
            flip(layer.path, place, mask)
            wrong = victim.misread(blocks, frozenset({number}))
            damaged = victim.journal.read()
            flip(layer.path, place, mask)
            wrong += victim.misread(blocks)
            if victim.journal.read().owner_pid != before.owner_pid:
                wrong.append(f"worker {before.owner_pid} of the corrupt device did not live on")
            served_ns = time.monotonic_ns()
        errors = damaged.medium_errors - before.medium_errors
        return watch.landing(
            has_landed=errors > 0,
            evidence=f"a bit of byte {place} flipped: {errors} MEDIUM ERRORs at block {number}",
            wrong=wrong + _unhurt(watch),
            served_ns=served_ns,
            kernel_lines=kernel_lines,
        )


def flip(path: Path, place: int, mask: int) -> None:
    """Flips the bits of ``mask`` in one byte of a file."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        byte = os.pread(fd, 1, place)[0]
        os.pwrite(fd, bytes([byte ^ mask]), place)
    finally:
        os.close(fd)


def _unhurt(watch: Watch) -> list[str]:
    """The device under load has the worker it had, and goes on."""
    watch.wait_until_it_goes_on()
    if watch.is_same_worker():
        return []
    return [f"{watch.site.device.name} has another worker though nothing was done to it"]
