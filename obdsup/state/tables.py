"""Rows in and out of state.db: each function is one write or one query over a connection."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import asdict

from obdsup.errors import StateError
from obdsup.state import checks
from obdsup.state.device import (
    DeviceOptions,
    DeviceRow,
    EventRow,
    OperationRow,
    RolloutRow,
    Takeover,
    WorkerRow,
)
from obdsup.state.process import ProcessIdentity

__all__ = [
    "add_event",
    "delete_device",
    "delete_worker",
    "end_operation",
    "events_since",
    "load_devices",
    "load_operations",
    "load_rollout",
    "load_workers",
    "meta",
    "put_checkpoint",
    "put_device",
    "put_meta",
    "put_operation",
    "put_rollout",
    "put_worker",
    "start_device_over",
]

EVENTS_KEPT = 20_000
_DEVICE_COLUMNS = (
    "name, uuid, image, lowers, writable, upper_data, upper_index, size_bytes, provider, "
    "provider_ids, block_device, phase, generation, worker_id, reason, takeovers, last_takeover, "
    "created, options, release, quarantine"
)
Write = Callable[[sqlite3.Connection], object]


def put_device(row: DeviceRow) -> Write:
    """Inserts or replaces a device; its generation never goes back."""
    values = (
        row.name, row.uuid, row.image, json.dumps(row.lowers), int(row.is_writable),
        row.upper_data, row.upper_index, row.size_bytes, row.provider,
        json.dumps(row.provider_ids), row.block_device, row.phase, row.generation, row.worker_id,
        row.reason, row.takeovers,
        json.dumps(asdict(row.last_takeover)) if row.last_takeover else None, row.created,
        json.dumps(asdict(row.options)), row.release, row.quarantine,
    )  # fmt: skip
    marks = ", ".join("?" * (len(values) + 1))
    sets = ", ".join(
        f"{name}=excluded.{name}"
        for name in f"{_DEVICE_COLUMNS}, revision".split(", ")
        if name != "generation"
    )

    def write(connection: sqlite3.Connection) -> None:
        revision = checks.next_revision(connection)
        connection.execute(
            f"INSERT INTO devices ({_DEVICE_COLUMNS}, revision) VALUES ({marks}) "
            f"ON CONFLICT(name) DO UPDATE SET {sets}, "
            "generation=max(generation, excluded.generation)",
            (*values, revision),
        )
        checks.seal(connection, "devices", row.name)

    return write


def start_device_over(row: DeviceRow) -> Write:
    """Replaces a device by what it is in another boot of the host: its generation begins anew."""
    put = put_device(row)

    def write(connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM operations WHERE device = ?", (row.name,))
        connection.execute("DELETE FROM checkpoints WHERE device = ?", (row.name,))
        connection.execute("DELETE FROM devices WHERE name = ?", (row.name,))
        put(connection)

    return write


def _device(row: tuple[object, ...]) -> DeviceRow:
    values = dict(zip(_DEVICE_COLUMNS.split(", "), row, strict=True))
    values.pop("writable")
    try:
        values["lowers"] = tuple(json.loads(str(values["lowers"])))
        values["provider_ids"] = dict(json.loads(str(values["provider_ids"])))
        if values["last_takeover"] is not None:
            values["last_takeover"] = Takeover(**json.loads(str(values["last_takeover"])))
        values["options"] = DeviceOptions(**json.loads(str(values["options"])))
    except (TypeError, ValueError) as error:
        raise StateError(f"state.db: row of device {values['name']!r}: {error}") from error
    return DeviceRow(**values)  # type: ignore[arg-type]


def load_devices(connection: sqlite3.Connection) -> list[DeviceRow]:
    """All devices by name."""
    rows = connection.execute(f"SELECT {_DEVICE_COLUMNS} FROM devices ORDER BY name")
    return [_device(row) for row in rows.fetchall()]


def delete_device(name: str) -> Write:
    """Removes a device with its operation and checkpoint: the commit point of a removal."""

    def write(connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM operations WHERE device = ?", (name,))
        connection.execute("DELETE FROM checkpoints WHERE device = ?", (name,))
        connection.execute("DELETE FROM devices WHERE name = ?", (name,))
        checks.next_revision(connection)

    return write


def put_worker(row: WorkerRow) -> Write:
    """Inserts or replaces a worker."""
    values = (row.id, row.identity.pid, row.identity.start_time, row.socket)

    def write(connection: sqlite3.Connection) -> None:
        connection.execute(
            "INSERT OR REPLACE INTO workers (id, pid, start_time, socket) VALUES (?, ?, ?, ?)",
            values,
        )
        checks.seal(connection, "workers", row.id)

    return write


def delete_worker(worker_id: str) -> Write:
    """Forgets a worker that is proven dead."""
    return lambda connection: connection.execute("DELETE FROM workers WHERE id = ?", (worker_id,))


def load_workers(connection: sqlite3.Connection) -> list[WorkerRow]:
    """All workers that were started and not yet proven dead."""
    rows = connection.execute("SELECT id, pid, start_time, socket FROM workers ORDER BY id")
    return [WorkerRow(i, ProcessIdentity(pid, start), sock) for i, pid, start, sock in rows]


def put_operation(row: OperationRow) -> Write:
    """Writes the intent: this operation, up to this step."""
    values = (row.device, row.kind, row.step, row.started)

    def write(connection: sqlite3.Connection) -> None:
        connection.execute(
            "INSERT OR REPLACE INTO operations (device, kind, step, started) VALUES (?, ?, ?, ?)",
            values,
        )
        checks.seal(connection, "operations", row.device)

    return write


def end_operation(device: str) -> Write:
    """The operation is over."""
    return lambda connection: connection.execute(
        "DELETE FROM operations WHERE device = ?", (device,)
    )


def load_operations(connection: sqlite3.Connection) -> list[OperationRow]:
    """Operations that were under way."""
    rows = connection.execute("SELECT device, kind, step, started FROM operations ORDER BY started")
    return [OperationRow(*row) for row in rows]


def put_rollout(row: RolloutRow) -> Write:
    """Writes where the rollout stands; there is one."""
    values = (
        row.target, row.origin, row.state, json.dumps(row.options), json.dumps(row.moved),
        row.reason, row.started, row.changed,
    )  # fmt: skip

    def write(connection: sqlite3.Connection) -> None:
        connection.execute(
            "INSERT OR REPLACE INTO rollout "
            "(id, target, origin, state, options, moved, reason, started, changed) "
            "VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?)",
            values,
        )
        checks.seal(connection, "rollout", 1)

    return write


def load_rollout(connection: sqlite3.Connection) -> RolloutRow | None:
    """The last rollout, if there ever was one."""
    row = connection.execute(
        "SELECT target, origin, state, options, moved, reason, started, changed FROM rollout"
    ).fetchone()
    if row is None:
        return None
    target, origin, state, options, moved, reason, started, changed = row
    try:
        return RolloutRow(
            target, origin, state, dict(json.loads(options)), tuple(json.loads(moved)), reason,
            started, changed,
        )  # fmt: skip
    except (TypeError, ValueError) as error:
        raise StateError(f"state.db: row of the rollout: {error}") from error


def add_event(ts: float, name: str, device: str, fields: dict[str, object]) -> Write:
    """Appends an event; the oldest beyond EVENTS_KEPT go."""
    text = json.dumps(fields, default=str)

    def write(connection: sqlite3.Connection) -> None:
        cursor = connection.execute(
            "INSERT INTO events (ts, name, device, fields) VALUES (?, ?, ?, ?)",
            (ts, name, device, text),
        )
        if cursor.lastrowid and cursor.lastrowid % 256 == 0:
            connection.execute(
                "DELETE FROM events WHERE seq <= ?", (cursor.lastrowid - EVENTS_KEPT,)
            )

    return write


def events_since(seq: int, limit: int = 5000) -> Callable[[sqlite3.Connection], list[EventRow]]:
    """Up to ``limit`` events after the given sequence number, oldest first."""

    def query(connection: sqlite3.Connection) -> list[EventRow]:
        rows = connection.execute(
            "SELECT seq, ts, name, device, fields FROM events WHERE seq > ? ORDER BY seq LIMIT ?",
            (seq, limit),
        )
        return [EventRow(s, ts, name, dev, json.loads(text)) for s, ts, name, dev, text in rows]

    return query


def put_checkpoint(
    rows: Iterable[tuple[str, float, int, int, int, dict[str, int]]],
) -> Write:
    """Ring positions and counters of many devices: name, time, generation, next, counters."""
    values = [(n, ts, gen, seq, off, json.dumps(c)) for n, ts, gen, seq, off, c in rows]
    return lambda connection: connection.executemany(
        "INSERT OR REPLACE INTO checkpoints "
        "(device, ts, generation, next_sequence, next_offset, counters) VALUES (?, ?, ?, ?, ?, ?)",
        values,
    )


def meta(connection: sqlite3.Connection) -> dict[str, str]:
    """The facts about the whole: boot_id, release, ..."""
    return dict(connection.execute("SELECT key, value FROM meta").fetchall())


def put_meta(values: dict[str, str]) -> Write:
    """Sets facts about the whole."""
    rows = list(values.items())

    def write(connection: sqlite3.Connection) -> None:
        connection.executemany("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", rows)
        for key in values:
            checks.seal(connection, "meta", key)

    return write
