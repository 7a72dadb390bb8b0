"""state.db: rows survive, order is kept, newer versions are refused by name."""

from __future__ import annotations

import sqlite3
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from obdsup.errors import ConfigError, StateError
from obdsup.state import migrations, tables
from obdsup.state.database import Database
from obdsup.state.device import (
    DeviceOptions,
    DeviceRow,
    OperationRow,
    RolloutRow,
    Takeover,
    WorkerRow,
    check_name,
)
from obdsup.state.process import ProcessIdentity

ROW = DeviceRow(
    name="web", uuid="u-1", image="/i/config.v1.json", lowers=("/i/a", "/i/b"), upper_data="/u/d",
    upper_index="/u/i", size_bytes=1 << 30, provider="fuse", phase="online", created=5.0,
    provider_ids={"socket": "/run/x", "minor": 3}, generation=4,
    last_takeover=Takeover(1.5, 2.25, 3, "killed"),
)  # fmt: skip


@pytest.fixture
def db(tmp_path: Path):  # type: ignore[no-untyped-def]
    database = Database(tmp_path / "state.db")
    yield database
    database.close()


def test_rows_come_back_as_they_were(db: Database) -> None:
    worker = WorkerRow("w1", ProcessIdentity(12, 345), "/run/w1.sock")
    operation = OperationRow("web", "create", "ring_made", 7.0)
    db.commit(tables.put_device(ROW))
    db.commit(tables.put_worker(worker))
    db.commit(tables.put_operation(operation))
    db.commit(tables.put_meta({"boot_id": "b"}))
    db.commit(tables.put_checkpoint([("web", 1.0, 4, 9, 128, {"completed": 3})]))
    db.close()
    again = Database(db.path)
    assert again.read(tables.load_devices) == [ROW]
    assert again.read(tables.load_workers) == [worker]
    assert again.read(tables.load_operations) == [operation]
    assert again.read(tables.meta) == {"boot_id": "b"}
    again.close()


def test_generation_never_goes_back(db: Database) -> None:
    db.commit(tables.put_device(replace(ROW, generation=9)))
    db.commit(tables.put_device(replace(ROW, generation=8, phase="recovering")))
    (row,) = db.read(tables.load_devices)  # type: ignore[misc]
    assert (row.generation, row.phase) == (9, "recovering")


def test_queued_writes_precede_a_later_commit(db: Database) -> None:
    for number in range(600):
        db.later(tables.add_event(float(number), "device.online", "web", {"n": number}))
    db.commit(tables.put_meta({"x": "1"}))
    events = db.read(tables.events_since(0))
    assert [event.fields["n"] for event in events] == list(range(600))  # type: ignore[attr-defined]


def test_a_bad_write_fails_alone(db: Database) -> None:
    db.later(tables.put_meta({"a": "1"}))
    with pytest.raises(StateError, match="could not be written"):
        db.commit(lambda connection: connection.execute("INSERT INTO nothing VALUES (1)"))
    db.later(tables.put_meta({"b": "2"}))
    db.flush()
    assert db.read(tables.meta) == {"a": "1", "b": "2"}


def test_deleting_a_device_deletes_what_hangs_on_it(db: Database) -> None:
    db.commit(tables.put_device(ROW))
    db.commit(tables.put_operation(OperationRow("web", "remove", "retracting", 1.0)))
    db.commit(tables.delete_device("web"))
    assert db.read(tables.load_devices) == []
    assert db.read(tables.load_operations) == []


def test_newer_schema_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    Database(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version={migrations.SCHEMA_VERSION + 1}")
    connection.close()
    newer = migrations.SCHEMA_VERSION + 1
    with pytest.raises(StateError, match=f"schema version {newer}") as caught:
        Database(path)
    assert caught.value.fields["expected"] == migrations.SCHEMA_VERSION


def test_foreign_and_damaged_files_are_refused(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.db"
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE t (x)")
    connection.close()
    with pytest.raises(StateError, match="not one of obdsup"):
        Database(foreign)
    damaged = tmp_path / "damaged.db"
    damaged.write_bytes(b"not a database at all, but long enough to be looked at" * 40)
    with pytest.raises(StateError):
        Database(damaged)


def test_synchronous_is_full_and_wal_is_on(db: Database) -> None:
    modes = db.commit(
        lambda c: (
            c.execute("PRAGMA synchronous").fetchone()[0],
            c.execute("PRAGMA journal_mode").fetchone()[0],
        )
    )
    assert modes == (2, "wal")


@pytest.mark.parametrize("name", ["", ".", "..", "-x", "a/b", "a b", "x" * 64, "ä", "a\n", None, 3])
def test_unusable_names_are_refused(name: object) -> None:
    with pytest.raises(ConfigError):
        check_name(name)


def test_usable_names_are_accepted() -> None:
    assert [check_name(n) for n in ("a", "web-1", "A.b_c", "x" * 63)]


@pytest.mark.host
def test_a_database_that_was_read_only_when_it_was_opened_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    Database(path).close()
    if subprocess.run(["chattr", "+i", path], capture_output=True).returncode:
        pytest.skip("the file system under the test has no immutable files")
    try:
        database = Database(path)
        with pytest.raises(StateError, match="readonly"):
            database.commit(tables.put_meta({"x": "1"}))
    finally:
        subprocess.run(["chattr", "-i", path], check=True)
    database.commit(tables.put_meta({"x": "2"}))
    assert database.read(tables.meta) == {"x": "2"}
    assert database.failure == ""
    database.close()


@pytest.mark.parametrize("damage", ["cut short", "cut in a page", "pages overwritten"])
def test_damage_behind_the_first_page_is_found_when_it_is_opened(
    tmp_path: Path, damage: str
) -> None:
    path = tmp_path / "state.db"
    database = Database(path)
    for number in range(200):
        database.later(tables.add_event(float(number), "device.online", "web", {"n": number}))
    database.close()
    with path.open("r+b") as file:
        if damage == "cut short":
            file.truncate(path.stat().st_size // 4096 // 2 * 4096)
        elif damage == "cut in a page":
            file.truncate(path.stat().st_size - 100)
        else:
            file.seek(4096)
            file.write(b"\xa5" * (path.stat().st_size - 4096))
    with pytest.raises(StateError, match=r"state\.db can not be used") as caught:
        Database(path)
    assert caught.value.hint


def test_database_of_version_1_is_brought_forward(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with sqlite3.connect(path) as connection:
        connection.executescript(migrations._VERSION_1)
        connection.execute(f"PRAGMA application_id={migrations.MAGIC}")
        connection.execute("PRAGMA user_version=1")
        connection.execute(
            "INSERT INTO devices VALUES "
            "('web','u','/i','[]',0,NULL,NULL,512,'load','{}','','online',3,'w1','',0,NULL,1.0)"
        )
    connection.close()
    db = Database(path)
    (row,) = db.read(tables.load_devices)  # type: ignore[misc]
    assert (row.name, row.generation, row.options, row.release, row.quarantine) == (
        "web", 3, DeviceOptions(), "", "",
    )  # fmt: skip
    db.close()


def test_rollout_comes_back_as_written(db: Database) -> None:
    assert db.read(tables.load_rollout) is None
    row = RolloutRow("/new", "", "watching", {"batch": 4}, ("a", "b"), "", 1.0, 2.0)
    db.commit(tables.put_rollout(row))
    assert db.read(tables.load_rollout) == row
