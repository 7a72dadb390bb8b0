"""The load program: ``python -m chaos.workloads.redis FOLDER ARGUMENTS``."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from chaos.workloads.load import serve
from chaos.workloads.recorder import Recorder
from chaos.workloads.redis.crowd import Crowd
from chaos.workloads.redis.ledger import Ledger
from chaos.workloads.redis.load import RedisLoad


def main(folder: Path, arguments: dict[str, str]) -> int:
    """Runs until the end of input; see ``chaos.workloads.load``."""
    rootfs, socket = Path(arguments["folder"]), Path(arguments["socket"])
    seed, pause_s = int(arguments["seed"]), float(arguments["pause_s"])
    patience_s = float(arguments["patience_s"])
    recorder = Recorder(folder)
    ledger = Ledger(f"{seed}/{os.getpid()}/{time.time_ns()}")
    probe, copy = rootfs / arguments["probe_inside"], Path(arguments["probe_copy"])
    crowd = Crowd(socket, probe, copy, seed, ledger, patience_s, pause_s)
    return serve(RedisLoad(socket, crowd, ledger, recorder, patience_s), recorder, 0.0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), json.loads(sys.argv[2])))
