"""SQLite on a file system: kills of its writers are survived, and damage gets its name."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from chaos.workloads.base import Findings
from chaos.workloads.files import sqlite
from chaos.workloads.mounted import MountedWorkload
from chaos.workloads.recorder import Recorder
from chaos.workloads.sqlite.content import SCHEMA, Content
from chaos.workloads.sqlite.database import Database
from chaos.workloads.sqlite.writer import MODES
from tests.chaos.loop_ground import LoopGround, loop_ground
from tests.conftest import eventually

PAGE_BYTES = 4096


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[LoopGround]:
    with loop_ground(tmp_path) as loop:
        yield loop


@pytest.fixture
def workload(loop: LoopGround) -> Iterator[MountedWorkload]:
    workload = sqlite(loop.ground)
    try:
        workload.start()
        eventually(lambda: workload.operations() > 60, 60)
        yield workload
    finally:
        workload.close()


@pytest.mark.host
def test_good_device_is_found_good_and_writers_were_killed(
    loop: LoopGround, workload: MountedWorkload
) -> None:
    copies = loop.ground.scratch / "sqlite"
    eventually(lambda: list(copies.glob("*.db")), 60)  # made after each kill
    count = workload.operations()
    eventually(lambda: workload.operations() > count, 60)
    workload.stop()
    assert workload.verify() == Findings()


def _newest(path: Path) -> int:
    with closing(sqlite3.connect(path, timeout=60)) as connection:
        return int(connection.execute("SELECT n FROM counter").fetchone()[0])


@pytest.mark.host
@pytest.mark.parametrize("name", ["delete.db", "wal.db"])
def test_database_of_an_earlier_moment_is_a_loss(
    loop: LoopGround, workload: MountedWorkload, name: str, tmp_path: Path
) -> None:
    path, earlier = loop.ground.mount / "sqlite" / name, tmp_path / "earlier.db"
    with closing(sqlite3.connect(path, timeout=60)) as connection:
        connection.execute(f"VACUUM INTO '{earlier}'")
    eventually(lambda: _newest(path) > _newest(earlier), 60)
    workload.stop()
    path.write_bytes(earlier.read_bytes())
    findings = workload.verify()
    assert any(name in line for line in findings.lost), findings


@pytest.mark.host
def test_damaged_page_is_found(loop: LoopGround, workload: MountedWorkload) -> None:
    workload.stop()
    path = loop.ground.mount / "sqlite/delete.db"
    blocks = loop.blocks(path)
    loop.overwrite(blocks[len(blocks) // 2], b"\x5a" * PAGE_BYTES)
    findings = workload.verify()
    assert any("delete.db" in line for line in findings.corrupt), findings


@pytest.mark.host
def test_failing_calls_are_io_errors(loop: LoopGround, workload: MountedWorkload) -> None:
    loop.break_file_system()
    eventually(lambda: (loop.ground.scratch / "sqlite/findings").stat().st_size, 30)
    workload.stop()
    assert workload.verify().io_errors


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    recorder = Recorder(tmp_path)
    yield recorder
    recorder.close()


@pytest.mark.integration
@pytest.mark.parametrize("mode", MODES)
def test_database_that_forgot_a_transaction_is_noticed_by_the_next_writer(
    tmp_path: Path, recorder: Recorder, mode: str
) -> None:
    path = tmp_path / "x.db"
    database = Database(path, mode, "salt", 0.0, recorder)
    database.start_writer()
    while database.acknowledged < 5:
        database.take_words()
    database.kill_writer()
    path.unlink()
    for suffix in ("-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    database.start_writer()
    while not recorder.finding_cnt:
        database.take_words()
    database.kill_writer()
    assert '"lost"' in (tmp_path / "findings").read_text()


@pytest.mark.integration
@pytest.mark.parametrize("mode", MODES)
def test_database_is_read_while_its_writer_has_it_open(
    tmp_path: Path, recorder: Recorder, mode: str
) -> None:
    database = Database(tmp_path / "x.db", mode, "salt", 0.0, recorder)
    database.start_writer()
    while database.acknowledged < 20:
        database.take_words()
    database.check_beside_writer()
    newest = database.acknowledged
    while database.acknowledged <= newest:  # it goes on
        database.take_words()
    assert not recorder.finding_cnt
    database._content = Content("another salt")
    database.check_beside_writer()
    database.kill_writer()
    assert '"corrupt"' in (tmp_path / "findings").read_text()


def _changed(statement: str) -> Callable[[sqlite3.Connection], object]:
    return lambda connection: connection.execute(statement)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (_changed("DELETE FROM entries WHERE n = 7"), "lost"),
        (_changed("UPDATE counter SET n = 8"), "lost"),
        (_changed("UPDATE counter SET n = 12"), "corrupt"),
        (_changed("UPDATE entries SET payload = x'00' WHERE n = 7"), "corrupt"),
        (
            _changed("UPDATE entries SET payload = (SELECT payload FROM entries WHERE n = 3)"),
            "misplaced",
        ),
        (_changed("UPDATE slots SET n = 1"), "stale"),
        (_changed("INSERT INTO entries VALUES (11, x'00')"), "stale"),
        (_changed("DELETE FROM slots"), "lost"),
    ],
)
def test_every_difference_gets_its_name(
    change: Callable[[sqlite3.Connection], object], kind: str
) -> None:
    content = Content("salt")
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.executescript(SCHEMA)
        for number in range(1, 11):
            content.apply(connection, number)
        assert list(content.differences(connection, 10, 10)) == []
        change(connection)
        assert kind in [found for found, _ in content.differences(connection, 10, 11)]
