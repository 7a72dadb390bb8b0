"""The load program: ``python -m chaos.workloads.sqlite FOLDER ARGUMENTS``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from chaos.workloads.load import serve
from chaos.workloads.recorder import Recorder
from chaos.workloads.sqlite.database import Database
from chaos.workloads.sqlite.load import SqliteLoad
from chaos.workloads.sqlite.writer import MODES

PLACE = "sqlite"


def main(folder: Path, arguments: dict[str, str]) -> int:
    """Runs until the end of input; see ``chaos.workloads.load``."""
    recorder = Recorder(folder)
    place, seed = Path(arguments["folder"]) / PLACE, int(arguments["seed"])
    pause_s = float(arguments["pause_s"])
    place.mkdir()
    databases = [
        Database(place / f"{mode.lower()}.db", mode, f"{seed}/{mode}", pause_s, recorder)
        for mode in MODES
    ]
    load = SqliteLoad(databases, folder, seed, is_slow=pause_s > 0)
    return serve(load, recorder, 0.0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), json.loads(sys.argv[2])))
