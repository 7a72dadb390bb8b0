"""state.db: read-only at a take-over, or damaged while nobody has it open."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from chaos.faults.base import Landing, Need, Site
from chaos.faults.environment import Watch
from chaos.rig.immutable import Immutable, is_supported
from chaos.rig.kills import Killer, Kind
from chaos.rig.node import wait_until
from chaos.rig.problem import RigError
from chaos.rig.state_disk import DATABASE_NAMES, StateDisk
from chaos.rig.supervision import ends_by_itself, stop_supervisor
from obdsup.state.migrations import SCHEMA_VERSION

__all__ = ["BrokenState", "ReadOnlyState"]

STATE_MIB = 32
WAL_HEADER_BYTES = 32
WAL_FRAME_HEADER_BYTES = 24


class ReadOnlyState:
    """Nothing in the state directory's database can be written, as after an error of its disk.

    Sometimes the supervisor dies as well: its successor finds the database like this.
    """

    kind = "state-readonly"
    about = "the state directory is read-only at a take-over; it is written again afterwards"
    needs = frozenset({Need.ROOT, Need.SUPERVISED})

    def inflict(self, site: Site, chance: random.Random) -> Landing:
        node, watch = site.node, Watch(site)
        kind = Kind.BOTH if chance.random() < 0.4 else Kind.WORKER
        with _on_ext4(site):
            watch.wait_for_supervisor()
            names = ("state.db", "state.db-wal")
            files = [p for p in (node.state_dir / name for name in names) if p.exists()]
            with Immutable([node.state_dir, *files]):
                wait_until(lambda: bool(_failure(site)), site.patience_s, "a refused write")
                said = _failure(site)
                watch.strike_now()
                killer = Killer(node, site.device.journal.read, wait_until, site.patience_s)
                landed = killer.kill(kind)
                watch.wait_until_it_goes_on()
                watch.wait_for_supervisor()
                wait_until(lambda: bool(_failure(site)), site.patience_s, "a refused write again")
            wrong = []
            try:
                wait_until(lambda: not _failure(site), site.patience_s, "state.db is written again")
            except RigError as error:
                wrong.append(f"{error}: {_failure(site)}")
        watch.wait_for_supervisor()
        return watch.landing(
            has_landed=bool(said),
            evidence=f"state_failure was {said!r} at the death of {kind.value}, "
            f"{landed.recovered} in flight",
            wrong=wrong,
            served_ns=landed.served_ns,
            workers_killed=1,
            supervisors_killed=int(kind is Kind.BOTH),
        )


class BrokenState:
    """The supervisor dies, its database is damaged, the next one starts.

    The worker serves all the time. The supervisor makes the database anew from the rows it finds
    elsewhere and says so. Only one of a newer release or of another program it refuses: then the
    copy comes back.
    """

    kind = "state-db-broken"
    about = "state.db is damaged while the supervisor is dead: made anew and said, workers serve on"
    needs = frozenset({Need.SUPERVISED})

    def inflict(self, site: Site, chance: random.Random) -> Landing:
        node, watch = site.node, Watch(site)
        copies = site.folder / "state-copy"
        copies.mkdir(exist_ok=True)
        name, damage = chance.choice(sorted(DAMAGES.items()))
        watch.strike_now()
        stop_supervisor(node)
        said_before = (node.run_dir / "supervisor.log").stat().st_size
        _copy(node.state_dir, copies)
        try:
            damage(node.state_dir, chance)
            has_ended = ends_by_itself(node)
            was_known = not has_ended and _is_known(site)
            rebuilt = "" if has_ended else str(node.ask("status")["state_rebuilt"])
            watch.wait_until_it_goes_on()
            with (node.run_dir / "supervisor.log").open("rb") as log:
                log.seek(said_before)
                said = log.read().decode(errors="replace")
        finally:
            stop_supervisor(node)
            if name in REFUSED:
                _copy(copies, node.state_dir)
            node.start_supervisor()
        watch.wait_for_supervisor()
        wait_until(lambda: _is_online(site), site.patience_s, f"{site.device.name} is known again")
        wrong = _judge(name, has_ended=has_ended, said=said)
        if not has_ended and not was_known:
            wrong.append(f"{name}: {site.device.name} was forgotten")
        if not watch.is_same_worker():
            wrong.append(f"{site.device.name} was not adopted from worker {watch.before.owner_pid}")
        watch.wait_until_it_goes_on()
        return watch.landing(
            has_landed=has_ended or bool(rebuilt) or name == "torn-wal",
            evidence=f"{name}: the supervisor {'ended and said so' if has_ended else 'went on'}, "
            f"{rebuilt or 'nothing rebuilt'}, "
            f"worker {watch.before.owner_pid} served on and was adopted",
            wrong=wrong,
            supervisors_killed=1 if has_ended else 2,
        )


def _truncated(state_dir: Path, chance: random.Random) -> None:
    """The main file cut somewhere, its log gone."""
    path = _settled(state_dir)
    with path.open("r+b") as file:
        file.truncate(chance.randrange(1, path.stat().st_size))


def _random_bytes(state_dir: Path, chance: random.Random) -> None:
    """Pages overwritten from the first one on."""
    path = _settled(state_dir)
    with path.open("r+b") as file:
        file.write(chance.randbytes(4096 * chance.randint(1, 4)))


def _inner_page(state_dir: Path, chance: random.Random) -> None:
    """Everything behind the first page overwritten: the header is sound, the tables are not."""
    path = _settled(state_dir)
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(chance.randbytes(path.stat().st_size - 4096))


def _newer_version(state_dir: Path, chance: random.Random) -> None:
    """As if a later release had written it."""
    with sqlite3.connect(_settled(state_dir)) as connection:
        newer = chance.randint(SCHEMA_VERSION + 1, 999)
        connection.execute(f"PRAGMA user_version={newer}")
    connection.close()


def _someone_elses(state_dir: Path, chance: random.Random) -> None:
    """A database of another program."""
    path = _settled(state_dir)
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE theirs (value)")
    connection.close()


def _deleted(state_dir: Path, chance: random.Random) -> None:
    """Gone, log and all."""
    for name in DATABASE_NAMES:
        (state_dir / name).unlink(missing_ok=True)


def _torn_wal(state_dir: Path, chance: random.Random) -> None:
    """The last frame of the log is garbage: the last transaction never reached the disk whole."""
    path = state_dir / "state.db-wal"
    content = path.read_bytes() if path.is_file() else b""
    frame_bytes = WAL_FRAME_HEADER_BYTES + int.from_bytes(content[8:12], "big")
    ends = list(_committed_ends(content, frame_bytes))
    if not ends:
        raise RigError("state-db-broken: the log of state.db holds no transaction to tear")
    with path.open("r+b") as file:
        file.seek(ends[-1] - frame_bytes)
        file.write(chance.randbytes(chance.randrange(1, frame_bytes)))


def _committed_ends(content: bytes, frame_bytes: int) -> Iterator[int]:
    """Where the frames of the log's current run end: those with the header's salt."""
    salt = content[16:24]
    place = WAL_HEADER_BYTES
    while place + frame_bytes <= len(content) and content[place + 8 : place + 16] == salt:
        place += frame_bytes
        yield place


REFUSED: dict[str, Callable[[Path, random.Random], None]] = {
    "newer-version": _newer_version,
    "someone-elses": _someone_elses,
}
HEALED: dict[str, Callable[[Path, random.Random], None]] = {
    "truncated": _truncated,
    "random-bytes": _random_bytes,
    "inner-pages": _inner_page,
    "deleted": _deleted,
}
DAMAGES = {**REFUSED, **HEALED, "torn-wal": _torn_wal}


def _judge(name: str, *, has_ended: bool, said: str) -> list[str]:
    """What the supervisor should have said and done, against what it did."""
    wrong = []
    if name in REFUSED and not has_ended:
        wrong.append(f"{name}: the supervisor went on with a database that is not its own")
    if name != "torn-wal" and "state.db" not in said:
        wrong.append(f"{name}: the supervisor did not name state.db: {said[-300:]!r}")
    if name not in REFUSED and has_ended:
        wrong.append(f"{name}: the supervisor ended: {said[-300:]!r}")
    if "Traceback" in said:
        wrong.append(f"{name}: the supervisor printed a traceback: {said[-500:]!r}")
    return wrong


def _settled(state_dir: Path) -> Path:
    """The main file with everything in it and without a log; nobody has it open."""
    path = state_dir / "state.db"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    for name in DATABASE_NAMES[1:]:
        (state_dir / name).unlink(missing_ok=True)
    return path


def _copy(source: Path, target: Path) -> None:
    for name in DATABASE_NAMES:
        (target / name).unlink(missing_ok=True)
        if (source / name).is_file() and name != "state.db-shm":
            shutil.copyfile(source / name, target / name)


def _is_known(site: Site) -> bool:
    return site.node.device_row(site.device.name) is not None


def _is_online(site: Site) -> bool:
    row = site.node.device_row(site.device.name)
    return row is not None and row["phase"] == "online"


def _failure(site: Site) -> str:
    """Why state.db was not written at last, "" when it was."""
    return str(site.node.ask("status")["state_failure"])


@contextmanager
def _on_ext4(site: Site) -> Iterator[None]:
    """The database where the immutable flag works: where it is, or on a small disk."""
    if is_supported(site.node.state_dir):
        yield
        return
    with StateDisk(site.node, site.folder / "state-disk", STATE_MIB, "ext4"):
        yield
