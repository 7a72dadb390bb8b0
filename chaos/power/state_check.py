"""Checks the state directory of a crash state: it opens, is sound, and keeps what was promised."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from chaos.power.ledger import Acknowledged
from chaos.rig.node import Node, wait_until
from chaos.rig.problem import RigError
from obdsup.errors import ObdError
from obdsup.state.database import Database
from obdsup.state.tables import load_devices, load_operations, load_workers

__all__ = ["check_start", "check_state"]

PHASES = frozenset(
    ("planned", "ring_made", "serving", "online", "rolling_back", "retracting", "retracted",
     "drained", "restoring")
)  # fmt: skip


def check_state(folder: Path, acknowledged: Acknowledged) -> list[str]:
    """Opens state.db as a supervisor does; returns what is wrong, one line each."""
    path = folder / "state.db"
    if not path.exists():
        return [f"{path.name} is not there"] if acknowledged.devices else []
    try:
        database = Database(path)
    except ObdError as error:
        return [f"state.db does not open: {error}"]
    try:
        return [*_sound(database), *_kept(database, acknowledged)]
    except (ObdError, sqlite3.DatabaseError) as error:
        return [f"state.db can not be read: {error}"]
    finally:
        database.close()


def check_start(state_dir: Path, run_dir: Path, patience_s: float = 120.0) -> list[str]:
    """Whether a supervisor starts on the state, as after the boot that follows; ends it again.

    Both folders are gone when it returns.
    """
    run_dir.mkdir()
    node = Node(run_dir, state_dir, "load", patience_s)
    try:
        node.start_supervisor()
        wait_until(node.is_answering, patience_s, "an answer of the supervisor")
        left = [str(row.get("name")) for row in node.ask("device.list")]
        return [f"device {name} is still there after a boot" for name in left]
    except RigError as error:
        return [f"no supervisor starts: {error}"]
    finally:
        node.clean_up()


def _sound(database: Database) -> list[str]:
    def query(connection: sqlite3.Connection) -> list[str]:
        said = [str(row[0]) for row in connection.execute("PRAGMA integrity_check")]
        return [] if said == ["ok"] else [f"integrity check: {line}" for line in said]

    found = database.read(query)
    assert isinstance(found, list)
    return found


def _kept(database: Database, acknowledged: Acknowledged) -> list[str]:
    devices = database.read(load_devices)
    operations = database.read(load_operations)
    database.read(load_workers)
    assert isinstance(devices, list)
    assert isinstance(operations, list)
    wrong = []
    by_name = {row.name: row for row in devices}
    for row in devices:
        if row.phase not in PHASES:
            wrong.append(f"device {row.name}: phase {row.phase!r}")
    for name in acknowledged.devices - acknowledged.unsure:
        row = by_name.get(name)
        if row is None:
            wrong.append(f"device {name} was created and is gone")
        elif row.phase != "online":
            wrong.append(f"device {name} was created and is {row.phase}, not online")
    allowed = acknowledged.devices | acknowledged.unsure
    wrong += [f"device {name} was removed and is back" for name in by_name.keys() - allowed]
    in_doubt = {row.device for row in operations} - acknowledged.unsure
    wrong += [f"device {name}: an operation that had ended" for name in in_doubt]
    return wrong
