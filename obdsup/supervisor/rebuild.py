"""state.db opened whatever became of it, and the operator told what was done about it.

``obdsup.state.database`` heals the file; here is what a supervisor adds: where the copies of the
rows are, which boot the rows are of, and the event.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from obdsup.state.database import Database
from obdsup.state.rebuilt import Rebuilt
from obdsup.state.row_copies import RowCopies
from obdsup.supervisor.event_log import EventLog
from obdsup.supervisor.settings import Settings

__all__ = ["open_database", "report_rebuilds", "state_report"]


def open_database(settings: Settings, boot_id: str) -> Database:
    """state.db of these settings; damaged, missing or read-only it is opened all the same.

    Raises:
        StateError: it is of a newer release, or of another program.
    """
    copies = RowCopies(settings.run_dir / "devices", boot_id)
    return Database(settings.state_dir / "state.db", copies)


def report_rebuilds(database: Database, events: EventLog) -> None:
    """Tells of a file that was made anew when it was opened, and of each one from now on."""

    def tell(rebuilt: Rebuilt) -> None:
        events.emit(
            "state.rebuilt", level=logging.ERROR, path=str(database.path),
            reason=rebuilt.reason or "it was behind", devices=",".join(rebuilt.devices),
            source=rebuilt.source or "nothing", kept=rebuilt.kept,
        )  # fmt: skip

    database.on_rebuilt = tell
    if database.last_rebuilt is not None:
        tell(database.last_rebuilt)


def state_report(database: Database) -> dict[str, object]:
    """Of ``status``: why state.db is not written now, and the last time it was made anew."""
    rebuilt, text = database.last_rebuilt, ""
    if rebuilt is not None:
        when = datetime.fromtimestamp(rebuilt.at, UTC).isoformat(timespec="seconds")
        text = (
            f"{when}: {rebuilt.reason or 'it was behind'}; rows from {rebuilt.source or 'nothing'}"
        )
        text += f"; the old file is {rebuilt.kept}" if rebuilt.kept else ""
    return {"state_failure": database.failure, "state_rebuilt": text}
