"""A run finds its own processes by their arguments, and nobody else's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from chaos.rig.process import processes_naming


def test_processes_with_an_argument_below_the_folder_are_found(tmp_path: Path) -> None:
    script = [sys.executable, "-S", "-c", "print(flush=True); input()"]
    mine, other = tmp_path / "run", tmp_path / "run-of-another"
    arguments = [str(mine), str(mine / "a.sock"), str(other), f"--x={mine}"]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen([*script, a], stdin=pipe, stdout=pipe) for a in arguments]
    try:
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()  # it runs the program, no longer a copy of us
        found = {process.pid for process in processes_naming(mine)}
        assert found == {processes[0].pid, processes[1].pid}
        assert os.getpid() not in found
    finally:
        for process in processes:
            process.communicate(b"\n")
