"""The load program: ``python -m chaos.workloads.fio FOLDER ARGUMENTS``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from chaos.workloads.fio.load import FioLoad
from chaos.workloads.load import serve
from chaos.workloads.recorder import Recorder


def main(folder: Path, arguments: dict[str, str]) -> int:
    """Runs until the end of input; see ``chaos.workloads.load``."""
    recorder = Recorder(folder)
    device, seed = Path(arguments["device"]), int(arguments["seed"])
    load = FioLoad(device, int(arguments["size_bytes"]), seed, folder, recorder)
    return serve(load, recorder, float(arguments["pause_s"]))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), json.loads(sys.argv[2])))
