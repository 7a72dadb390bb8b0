"""A copy of each device's row beside its journal: RUN/devices/NAME/row.json.

It outlives every process and a damaged state.db, within one boot of the host. One JSON object:
``format`` 1, ``boot_id``, ``revision`` (see migrations), ``row`` (column: value), ``crc`` (CRC-32
of the others as JSON with sorted keys). Replaced by rename; not synced: the run directory is a
tmpfs, and a copy that was cut short is known by its checksum.
"""

from __future__ import annotations

import json
import logging
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

__all__ = ["RowCopies", "RowCopy"]

FORMAT = 1
FILE_NAME = "row.json"
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RowCopy:
    """One device as it was at a revision; ``columns`` as in the table ``devices``."""

    name: str
    revision: int
    columns: dict[str, object]


class RowCopies:
    """The copies below one folder, of one boot.

    Args:
        folder: one folder per device in it.
        boot_id: of the boot that runs; copies of others are not read.
    """

    def __init__(self, folder: Path, boot_id: str) -> None:
        self.folder = folder
        self.boot_id = boot_id

    @property
    def scratch(self) -> Path:
        """A folder for files that need not outlive the process."""
        return self.folder.parent

    def load(self) -> list[RowCopy]:
        """Those that can be trusted, by name."""
        found = (self._read(path) for path in sorted(self.folder.glob(f"*/{FILE_NAME}")))
        return [copy for copy in found if copy is not None]

    def put(self, copy: RowCopy) -> None:
        """Replaces a copy. One that can not be written is removed: no copy beats an old one."""
        path = self.folder / copy.name / FILE_NAME
        draft = path.with_suffix(".new")
        body: dict[str, object] = {
            "format": FORMAT, "boot_id": self.boot_id, "revision": copy.revision,
            "row": copy.columns,
        }  # fmt: skip
        body["crc"] = _crc(body)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(fd, "w") as file:
                json.dump(body, file)
            draft.rename(path)
        except OSError as error:
            log.warning("state.copy_failed path=%s reason=%s", path, error)
            self.remove(copy.name)

    def remove(self, name: str) -> None:
        """Fine when there is none."""
        for file_name in (FILE_NAME, "row.new"):
            try:
                (self.folder / name / file_name).unlink(missing_ok=True)
            except OSError as error:
                log.warning("state.copy_failed dev=%s reason=%s", name, error)

    def _read(self, path: Path) -> RowCopy | None:
        try:
            body = json.loads(path.read_text())
            crc = body.pop("crc")
            if crc != _crc(body) or body["format"] != FORMAT or body["boot_id"] != self.boot_id:
                return None
            copy = RowCopy(str(body["row"]["name"]), int(body["revision"]), dict(body["row"]))
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None
        return copy if copy.name == path.parent.name else None


def _crc(body: dict[str, object]) -> int:
    return zlib.crc32(json.dumps(body, sort_keys=True).encode())
