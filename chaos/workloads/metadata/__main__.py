"""The load program: ``python -m chaos.workloads.metadata FOLDER ARGUMENTS``."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from chaos.workloads.load import serve
from chaos.workloads.metadata.load import MetadataLoad
from chaos.workloads.recorder import Recorder


def main(folder: Path, arguments: dict[str, str]) -> int:
    """Runs until the end of input; see ``chaos.workloads.load``."""
    os.umask(0o022)  # the model knows the modes
    recorder = Recorder(folder)
    load = MetadataLoad(Path(arguments["folder"]), int(arguments["seed"]), recorder)
    return serve(load, recorder, float(arguments["pause_s"]))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), json.loads(sys.argv[2])))
