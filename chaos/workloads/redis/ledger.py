"""What redis acknowledged: which value a key may legally have, and what a wrong one means.

Each key has one writer, which numbers its SETs 1, 2, 3 …; a value carries its key and number and
is otherwise computed from them, so that any value ever seen can be judged:

    acknowledged  the newest SET redis answered: no older value may be seen from then on
    issued        the newest SET sent: a value up to this one may be seen, acknowledged or not
"""

from __future__ import annotations

import enum
import hashlib
import threading
from dataclasses import dataclass

__all__ = ["Ledger", "Verdict"]

MAX_PADDING_BYTES = 3000


class Verdict(enum.Enum):
    """The judgement on one value that was read."""

    GOOD = "good"
    LOST = "lost"  # nothing there, though a SET was acknowledged
    STALE = "stale"  # older than the acknowledged value
    FOREIGN = "foreign"  # never written to this key, or damaged


@dataclass(slots=True)
class _Entry:
    acknowledged: int = 0
    issued: int = 0


class Ledger:
    """The acknowledged and issued number of every key. Any thread may call anything.

    Args:
        salt: makes the values of this run different from those of any other.
    """

    def __init__(self, salt: str) -> None:
        self._salt = salt
        self._entries: dict[str, _Entry] = {}
        self._lock = threading.Lock()

    def value(self, key: str, number: int) -> bytes:
        """The one value that SET ``number`` of ``key`` writes; 16 to about 3,100 bytes long."""
        seed = hashlib.shake_128(f"{self._salt}:{key}:{number}".encode())
        length = 16 + int.from_bytes(seed.digest(2), "little") % MAX_PADDING_BYTES
        return f"{key}:{number}:".encode() + seed.digest(length)

    def issue(self, key: str) -> tuple[int, bytes]:
        """Takes the next number of a key, before its SET is sent."""
        with self._lock:
            entry = self._entries.setdefault(key, _Entry())
            entry.issued += 1
            number = entry.issued
        return number, self.value(key, number)

    def acknowledge(self, key: str, number: int) -> None:
        """Notes that redis answered OK to this SET."""
        with self._lock:
            entry = self._entries[key]
            entry.acknowledged = max(entry.acknowledged, number)

    def floor(self, key: str) -> int:
        """The oldest number a GET sent from now on may see; 0: it may find nothing."""
        with self._lock:
            entry = self._entries.get(key)
            return entry.acknowledged if entry else 0

    def judge(self, key: str, value: bytes | None, floor: int) -> Verdict:
        """Judges the answer to a GET; ``floor`` was taken before it was sent."""
        if value is None:
            return Verdict.LOST if floor else Verdict.GOOD
        parts = value.split(b":", 2)
        if len(parts) != 3 or parts[0] != key.encode() or not parts[1].isdigit():
            return Verdict.FOREIGN
        number = int(parts[1])
        with self._lock:
            entry = self._entries.get(key)
            issued = entry.issued if entry else 0
        if not 1 <= number <= issued or value != self.value(key, number):
            return Verdict.FOREIGN
        return Verdict.STALE if number < floor else Verdict.GOOD

    def written(self) -> list[str]:
        """All keys that were ever sent, in the order of their first SET."""
        with self._lock:
            return list(self._entries)
