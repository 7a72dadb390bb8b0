"""The row of one device in memory: the authoritative copy, written behind or at once."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

from obdsup.state import tables
from obdsup.state.database import Database
from obdsup.state.device import DeviceRow, OperationRow

__all__ = ["Record"]


class Record:
    """Holds a DeviceRow; safe from any thread."""

    def __init__(self, database: Database, row: DeviceRow) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._row = row
        self._is_deleted = False

    @property
    def row(self) -> DeviceRow:
        return self._row

    @property
    def name(self) -> str:
        return self._row.name

    def commit(self, operation: OperationRow | None = None, **changes: Any) -> None:
        """Changes fields, with the intent if given; on disk when it returns.

        Raises:
            StateError: it could not be written; memory has the change all the same.
        """
        row = self._change(changes)

        def write(connection: Any) -> None:
            tables.put_device(row)(connection)
            if operation is not None:
                tables.put_operation(operation)(connection)
            else:
                tables.end_operation(row.name)(connection)

        self._database.commit(write)

    def later(self, **changes: Any) -> None:
        """Changes fields; written behind everything queued before."""
        with self._lock:
            self._row = row = replace(self._row, **changes)
            if not self._is_deleted:
                self._database.later(tables.put_device(row))

    def delete(self) -> None:
        """Removes the row, the commit point of a removal; later changes are not written."""
        with self._lock:
            self._is_deleted = True
        self._database.commit(tables.delete_device(self.name))

    def _change(self, changes: dict[str, Any]) -> DeviceRow:
        with self._lock:
            self._row = replace(self._row, **changes)
            return self._row
