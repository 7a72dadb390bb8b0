"""The load program: ``python -m chaos.workloads.git FOLDER ARGUMENTS``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from chaos.workloads.git.load import GitLoad
from chaos.workloads.git.repository import Orders
from chaos.workloads.load import serve
from chaos.workloads.recorder import Recorder


def main(folder: Path, arguments: dict[str, str]) -> int:
    """Runs until the end of input; see ``chaos.workloads.load``."""
    recorder = Recorder(folder)
    orders = Orders(Path(arguments["orders"]), float(arguments["patience_s"]))
    load = GitLoad(orders, int(arguments["seed"]), recorder)
    return serve(load, recorder, float(arguments["pause_s"]))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), json.loads(sys.argv[2])))
