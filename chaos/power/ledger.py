"""What a recording did and what was acknowledged: written in the guest, read on the host.

Marks in the log of writes say how far it was acknowledged when they were set:
``disk/N``: the first N completed changes of the raw device were flushed; ``fua/V``: change V was
written with FUA; ``file/NAME/V``: generation V of a file was fsynced; ``made/NAME``, ``gone/NAME``:
a device was created or removed (``making``, ``going``: this has begun); ``begin`` and ``end``:
between them power may be cut.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from chaos.power.stamps import Change

__all__ = ["Acknowledged", "Ledger"]


@dataclass(slots=True)
class Ledger:
    """One recording on one file system."""

    file_system: str
    seed: int
    changes: list[Change] = field(default_factory=list)
    completed: list[int] = field(default_factory=list)  # versions, in order of their answers
    worker_kills: int = 0
    kills_in_flight: int = 0
    supervisor_kills: int = 0
    seconds: float = 0.0

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> Ledger:
        record: dict[str, Any] = json.loads(path.read_text())
        record["changes"] = [Change(**change) for change in record["changes"]]
        return cls(**record)


@dataclass(slots=True)
class Acknowledged:
    """What the marks up to one point of the log promise."""

    durable: set[int] = field(default_factory=set)
    files: dict[str, int] = field(default_factory=dict)
    devices: set[str] = field(default_factory=set)
    unsure: set[str] = field(default_factory=set)  # being created or removed right then

    @classmethod
    def from_marks(cls, marks: Iterable[str], ledger: Ledger) -> Acknowledged:
        """Raises ValueError for a mark nobody sets."""
        found = cls()
        flushed = 0
        for mark in marks:
            word, *rest = mark.split("/")
            if word == "disk":
                flushed = max(flushed, int(rest[0]))
            elif word == "fua":
                found.durable.add(int(rest[0]))
            elif word == "file":
                found.files[rest[0]] = max(found.files.get(rest[0], 0), int(rest[1]))
            elif word in ("making", "going"):
                found.unsure.add(rest[0])
            elif word == "made":
                found.unsure.discard(rest[0])
                found.devices.add(rest[0])
            elif word == "gone":
                found.unsure.discard(rest[0])
                found.devices.discard(rest[0])
            elif word not in ("begin", "end"):
                raise ValueError(f"unknown mark {mark!r}")
        found.durable.update(ledger.completed[:flushed])
        return found
