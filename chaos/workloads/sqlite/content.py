"""What the database must hold after transaction n: everything follows from n and a salt (pure).

Transaction n inserts row n into ``entries``, drops row n - KEPT, puts n into one of the ``slots``
and n into ``counter``: after it, entries are n - KEPT + 1 to n, and each slot holds the newest
number that fell on it. A database that holds anything else was damaged, or is no prefix of what
was committed.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator

__all__ = ["KEPT", "SCHEMA", "Content", "Difference"]

KEPT = 800  # entries; the pages of the file are used again and again
SLOTS = 200
MAX_PAYLOAD_BYTES = 3000
SCHEMA = """
CREATE TABLE entries (n INTEGER PRIMARY KEY, payload BLOB NOT NULL) STRICT;
CREATE TABLE slots (slot INTEGER PRIMARY KEY, n INTEGER NOT NULL) STRICT;
CREATE TABLE counter (id INTEGER PRIMARY KEY, n INTEGER NOT NULL) STRICT;
INSERT INTO counter VALUES (0, 0);
"""
Difference = tuple[str, str]  # kind of finding, line


class Content:
    """The content of one database of one run."""

    def __init__(self, salt: str) -> None:
        self._salt = salt
        self._slots = [0]  # of each transaction so far; number 0 does not exist

    def payload(self, number: int) -> bytes:
        """The payload of one entry; 8 to 3,008 bytes, no two alike."""
        source = hashlib.shake_128(f"{self._salt}:{number}".encode())
        length = 8 + int.from_bytes(source.digest(2), "little") % MAX_PAYLOAD_BYTES
        return number.to_bytes(8, "little") + source.digest(length)

    def slot(self, number: int) -> int:
        """The slot that transaction ``number`` writes."""
        while len(self._slots) <= number:
            source = f"{self._salt}:{len(self._slots)}".encode()
            digest = hashlib.blake2b(source, digest_size=4).digest()
            self._slots.append(int.from_bytes(digest, "little") % SLOTS)
        return self._slots[number]

    def apply(self, connection: sqlite3.Connection, number: int) -> None:
        """The statements of transaction ``number``, between BEGIN and COMMIT."""
        entry = (number, self.payload(number))
        connection.execute("INSERT INTO entries VALUES (?, ?)", entry)
        connection.execute("DELETE FROM entries WHERE n <= ?", (number - KEPT,))
        connection.execute(
            "INSERT OR REPLACE INTO slots VALUES (?, ?)", (self.slot(number), number)
        )
        connection.execute("UPDATE counter SET n = ?", (number,))

    def differences(
        self, connection: sqlite3.Connection, floor: int, ceiling: int
    ) -> Iterator[Difference]:
        """Everything in the database that is not as some transaction in [floor, ceiling] left it.

        Raises:
            sqlite3.Error: it can not be read.
        """
        found = connection.execute("SELECT n FROM counter").fetchall()
        if len(found) != 1:
            yield "corrupt", f"{len(found)} counters instead of one"
            return
        newest = int(found[0][0])
        if newest < floor:
            yield "lost", f"ends at transaction {newest}, but {floor} was acknowledged"
        if newest > ceiling:
            yield "corrupt", f"ends at transaction {newest}, but only {ceiling} were begun"
            return
        yield from self._entry_differences(connection, newest)
        yield from self._slot_differences(connection, newest)

    def _entry_differences(
        self, connection: sqlite3.Connection, newest: int
    ) -> Iterator[Difference]:
        entries = dict(connection.execute("SELECT n, payload FROM entries").fetchall())
        expected = range(max(1, newest - KEPT + 1), newest + 1)
        for number in expected:
            payload = entries.pop(number, None)
            if payload is None:
                yield "lost", f"entry {number} of {newest} is missing"
            elif payload != self.payload(number):
                other = int.from_bytes(payload[:8], "little")
                kind = "misplaced" if payload == self.payload(other) else "corrupt"
                yield kind, f"entry {number} does not hold what was inserted"
        for number in sorted(entries):
            yield "stale", f"entry {number} is there, but {newest} transactions leave it out"

    def _slot_differences(
        self, connection: sqlite3.Connection, newest: int
    ) -> Iterator[Difference]:
        slots = dict(connection.execute("SELECT slot, n FROM slots").fetchall())
        expected = {self.slot(number): number for number in range(1, newest + 1)}
        for slot, number in expected.items():
            found = slots.pop(slot, None)
            if found != number:
                kind = "lost" if found is None else "stale"
                yield kind, f"slot {slot} holds {found}, not {number}"
        for slot in sorted(slots):
            yield "corrupt", f"slot {slot} was never written"
