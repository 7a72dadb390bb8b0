"""state.db damaged anywhere, before a start or while it is open: no row lost, none wrong."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from obdsup.errors import StateError
from obdsup.state import migrations, tables
from obdsup.state.database import Database
from obdsup.state.device import DeviceOptions, DeviceRow, WorkerRow
from obdsup.state.process import ProcessIdentity
from obdsup.state.row_copies import RowCopies
from tests.conftest import eventually

BOOT = "11111111-2222-3333-4444-555555555555"
NAMES = ("a", "b", "c")


def row_of(name: str) -> DeviceRow:
    return DeviceRow(
        name=name, uuid=f"uuid-{name}", image=f"/images/{name}/config.v1.json",
        lowers=(f"/images/{name}/l0", f"/images/{name}/l1"), upper_data=f"/state/{name}/upper.data",
        upper_index=f"/state/{name}/upper.index", size_bytes=1 << 30, provider="fuse",
        phase="online", created=5.0, provider_ids={"socket": f"/run/{name}"}, generation=4,
        options=DeviceOptions(is_restored=True),
    )  # fmt: skip


ROWS = [row_of(name) for name in NAMES]


class Place:
    """A state directory and a run directory."""

    def __init__(self, root: Path) -> None:
        self.path = root / "state" / "state.db"
        self.copies = RowCopies(root / "run" / "devices", BOOT)
        self.path.parent.mkdir(parents=True)
        self.copies.folder.mkdir(parents=True)

    def open(self) -> Database:
        return Database(self.path, self.copies)

    def fill(self) -> Database:
        database = self.open()
        database.commit(tables.put_meta({"boot_id": BOOT}))
        for row in ROWS:
            database.commit(tables.put_device(row))
            worker = WorkerRow(f"w-{row.name}", ProcessIdentity(5, 6), f"/run/{row.name}.sock")
            database.commit(tables.put_worker(worker))
        for number in range(300):
            database.later(tables.add_event(float(number), "device.online", "a", {"n": number}))
        database.flush()
        return database

    def forget_copies(self) -> None:
        shutil.rmtree(self.copies.folder)
        self.copies.folder.mkdir()

    def aside(self) -> list[Path]:
        return sorted(self.path.parent.glob("state.db.damaged-*"))


@pytest.fixture
def place() -> Iterator[Place]:
    """In memory where there is such a place: hundreds of starts sync thousands of times."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Place(Path(folder))


@pytest.fixture
def place_on_disk(tmp_path: Path) -> Place:
    return Place(tmp_path)


def kill(database: Database, place: Place, kept: Path) -> None:
    """Leaves the files as a killed process leaves them: with a log."""
    kept.mkdir(exist_ok=True)
    for suffix in ("", "-wal"):
        shutil.copyfile(f"{place.path}{suffix}", kept / f"state.db{suffix}")
    database.close()
    for path in place.path.parent.glob("state.db*"):
        path.unlink()
    for suffix in ("", "-wal"):
        shutil.copyfile(kept / f"state.db{suffix}", f"{place.path}{suffix}")


def overwrite(path: Path, chance: random.Random) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        for _ in range(chance.randint(1, 64)):
            file.seek(chance.randrange(size))
            file.write(chance.randbytes(1))


def cut(path: Path, chance: random.Random) -> None:
    with path.open("r+b") as file:
        file.truncate(chance.randrange(path.stat().st_size))


def one_run(path: Path, chance: random.Random) -> None:
    """Neighbouring bytes: what a failing sector or a careless dd leaves."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(chance.randrange(size))
        file.write(chance.randbytes(chance.choice((64, 512, 4096))))


DAMAGES: tuple[Callable[[Path, random.Random], None], ...] = (overwrite, cut, one_run)


def load(database: Database) -> list[DeviceRow]:
    return database.read(tables.load_devices)  # type: ignore[return-value]


@pytest.mark.parametrize("is_log", [False, True], ids=["main file", "log"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_no_damage_costs_or_changes_a_row(
    place: Place, tmp_path: Path, damage: Callable[[Path, random.Random], None], is_log: bool
) -> None:
    """34 seeds each; without the copies what comes back is at most less, never something else."""
    database = place.fill()
    if is_log:
        kill(database, place, tmp_path / "kept")
    else:
        database.close()
    pristine = {path: path.read_bytes() for path in place.path.parent.iterdir()}
    copied = {path: path.read_bytes() for path in place.copies.folder.glob("*/row.json")}
    assert len(copied) == len(NAMES)
    for seed in range(34):
        chance = random.Random(f"{damage.__name__} {seed}")
        for has_copies in (True, False):
            place.forget_copies()
            for path in place.path.parent.iterdir():
                path.unlink()
            for path, content in (pristine | (copied if has_copies else {})).items():
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(content)
            damage(Path(f"{place.path}-wal") if is_log else place.path, chance)
            again = place.open()
            found = load(again)
            assert all(row in ROWS for row in found), seed
            assert again.read(tables.meta) in ({"boot_id": BOOT}, {}), seed
            if has_copies:
                assert found == ROWS, seed
            again.commit(tables.put_meta({"x": "1"}))
            assert again.failure == ""
            again.close()
            with sqlite3.connect(place.path) as connection:
                assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",), seed
            connection.close()


def test_what_a_killed_process_leaves_is_sound(place: Place, tmp_path: Path) -> None:
    kill(place.fill(), place, tmp_path / "kept")
    again = place.open()
    assert load(again) == ROWS
    assert again.last_rebuilt is None
    assert not place.aside()
    again.close()


def test_a_damaged_file_is_kept_aside_and_its_events_are_taken_over(place: Place) -> None:
    place.fill().close()
    with sqlite3.connect(place.path) as connection:
        connection.execute("UPDATE devices SET upper_data = '/state/b/upper.data'")
    connection.close()
    again = place.open()
    assert load(again) == ROWS
    assert again.last_rebuilt is not None
    assert "a row of devices" in again.last_rebuilt.reason
    assert Path(again.last_rebuilt.kept) in place.aside()
    assert len(again.read(tables.events_since(0))) == 300  # type: ignore[arg-type]
    again.close()


@pytest.mark.parametrize("content", [b"", b"garbage" * 3000, b"SQLite format 3\0" + b"\0" * 5000])
def test_garbage_or_nothing_in_its_place(place: Place, content: bytes) -> None:
    place.fill().close()
    place.path.write_bytes(content)
    again = place.open()
    assert load(again) == ROWS
    assert again.last_rebuilt is not None
    assert "copies" in again.last_rebuilt.source
    again.close()


def test_a_missing_file_is_made_anew_and_said(place: Place) -> None:
    place.fill().close()
    place.path.unlink()
    again = place.open()
    assert load(again) == ROWS
    assert again.last_rebuilt is not None
    assert again.last_rebuilt.reason == "it is missing"
    again.close()


def test_an_older_copy_of_the_file_does_not_bring_old_rows_back(place: Place) -> None:
    database = place.fill()
    database.close()
    old = place.path.read_bytes()
    database = place.open()
    database.commit(tables.put_device(replace(ROWS[0], phase="retracting", generation=9)))
    database.close()
    place.path.write_bytes(old)
    again = place.open()
    assert [(row.phase, row.generation) for row in load(again)] == [
        ("retracting", 9), ("online", 4), ("online", 4),
    ]  # fmt: skip
    assert again.last_rebuilt is not None
    again.close()


def test_a_removed_device_stays_removed(place: Place) -> None:
    database = place.fill()
    database.commit(tables.delete_device("b"))
    assert not (place.copies.folder / "b" / "row.json").exists()
    database.close()
    place.path.write_bytes(b"x" * 8192)
    again = place.open()
    assert [row.name for row in load(again)] == ["a", "c"]
    again.close()


def test_copies_of_another_boot_are_not_read(place: Place) -> None:
    place.fill().close()
    place.path.unlink()
    other = Database(place.path, RowCopies(place.copies.folder, "another"))
    assert load(other) == []
    other.close()


def test_newer_and_foreign_databases_are_refused_all_the_same(place: Place) -> None:
    place.fill().close()
    with sqlite3.connect(place.path) as connection:
        connection.execute(f"PRAGMA user_version={migrations.SCHEMA_VERSION + 1}")
    connection.close()
    with pytest.raises(StateError, match="schema version"):
        place.open()
    place.path.unlink()
    with sqlite3.connect(place.path) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    with pytest.raises(StateError, match="not one of obdsup"):
        place.open()
    assert not place.aside()


# -- while it is open ------------------------------------------------------------------------------
@pytest.fixture
def opened(place: Place) -> Iterator[Database]:
    database = place.fill()
    yield database
    database.close()


def delete(path: Path, chance: random.Random) -> None:
    path.unlink()


def replace_by_garbage(path: Path, chance: random.Random) -> None:
    path.unlink()
    path.write_bytes(chance.randbytes(20000))


def empty(path: Path, chance: random.Random) -> None:
    os.truncate(path, 0)


@pytest.mark.parametrize("damage", [*DAMAGES, delete, replace_by_garbage, empty])
@pytest.mark.parametrize("name", ["state.db", "state.db-wal"])
def test_damage_while_it_is_open_is_found_and_undone(
    place: Place, opened: Database, name: str, damage: Callable[[Path, random.Random], None]
) -> None:
    if name == "state.db":  # something to damage: at first all is in the log
        opened.commit(lambda connection: None)
        with sqlite3.connect(place.path) as connection:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        connection.close()
    chance = random.Random(f"{name} {damage.__name__}")
    told: list[str] = []
    opened.on_rebuilt = lambda rebuilt: told.append(rebuilt.reason)
    damage(place.path.with_name(name), chance)
    changed = [replace(row, reason="after") for row in ROWS]
    for row in changed:
        opened.later(tables.put_device(row))
    eventually(lambda: _reads_as(place, tuple(changed)), 20)
    assert opened.failure == ""
    opened.commit(tables.put_meta({"x": "1"}))
    assert load(opened) == changed
    if name == "state.db" and damage in (delete, replace_by_garbage, empty):
        assert told


def _reads_as(place: Place, rows: tuple[DeviceRow, ...]) -> bool:
    """What the next supervisor would find, without the copies beside the journals."""
    if not place.path.exists():
        return False
    folder = place.path.parent / "look"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        for suffix in ("", "-wal"):
            if Path(f"{place.path}{suffix}").exists():
                shutil.copyfile(f"{place.path}{suffix}", folder / f"state.db{suffix}")
        database = Database(folder / "state.db")
    except (StateError, OSError):
        return False
    try:
        return tuple(load(database)) == rows
    finally:
        database.close()


def test_queued_rows_are_kept_while_the_file_can_not_be_written(place: Place) -> None:
    """A full disk, by SQLite's own limit."""
    database = place.fill()
    assert database._disk is not None
    writer = database._disk._writer
    (pages,) = writer.execute("PRAGMA page_count").fetchone()
    writer.execute(f"PRAGMA max_page_count={pages}")
    for number in range(3000):
        database.later(tables.add_event(float(number), "device.slow", "a", {"text": "x" * 300}))
    changed = replace(ROWS[0], reason="could not be written at once")
    database.later(tables.put_device(changed))
    eventually(lambda: "full" in database.failure)
    eventually(lambda: load(database)[0] == changed)
    copy = next(copy for copy in place.copies.load() if copy.name == "a")
    assert copy.columns["reason"] == changed.reason
    writer.execute("PRAGMA max_page_count=1000000")
    eventually(lambda: not database.failure)
    database.close()
    place.forget_copies()
    again = place.open()
    assert load(again)[0] == changed
    again.close()


@pytest.mark.host
def test_a_folder_that_can_not_be_written_is_no_reason_not_to_start(place_on_disk: Place) -> None:
    place = place_on_disk
    database = place.fill()
    database.close()
    folder = place.path.parent
    if subprocess.run(["chattr", "+i", folder, place.path], capture_output=True).returncode:
        pytest.skip("the file system under the test has no immutable files")
    try:
        again = place.open()
        assert load(again) == ROWS
        again.later(tables.put_device(replace(ROWS[1], reason="new")))
        eventually(lambda: again.failure != "")
        with pytest.raises(StateError):
            again.commit(tables.put_meta({"x": "1"}))
    finally:
        subprocess.run(["chattr", "-i", folder, place.path], check=True)
    eventually(lambda: not again.failure)
    assert load(again)[1].reason == "new"
    again.close()
