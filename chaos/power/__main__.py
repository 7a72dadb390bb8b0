"""``python -m chaos.power``: records in the guest, cuts the power on the host, judges.

Exit codes: 0 nothing lost, corrupt or unsound (with --planted: something was); 1 otherwise, and
when the run could not be carried through; 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from chaos.power.examination import Examination, Findings
from chaos.rig import hooked
from chaos.rig.problem import REPO, RigError, run, say

__all__ = ["main"]

_RECORD_S = 1800
_MEMORY = "3G"
_PROGRAM = "build/power/prog_upper"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m chaos.power", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--points", type=int, default=250, help="crash states per file system")
    parser.add_argument("--file-system", action="append", choices=("ext4", "xfs"))
    parser.add_argument("--operations", type=int, default=800, help="of each of three threads")
    parser.add_argument("--kills", type=int, default=8, help="of workers")
    parser.add_argument("--planted", choices=("sync_nothing",), help="a bug that must be found")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--recording", type=Path, help="folder to keep; used if it holds one")
    parser.add_argument("--kernel", default="6.1", help="of the guest")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Runs everything; returns the exit code."""
    options = _parser().parse_args(arguments)
    names = options.file_system or ["ext4", "xfs"]
    with tempfile.TemporaryDirectory(prefix="obdsup-power-", dir="/dev/shm") as scratch:
        folder = options.recording or Path(scratch, "recording")
        folder.mkdir(parents=True, exist_ok=True)
        try:
            program = _build()
            if not all((folder / f"{name}.json").is_file() for name in names):
                _record(options, names, folder)
            found = [_examine(options, name, folder, program, Path(scratch)) for name in names]
        except RigError as error:
            print(f"power: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130
    if options.json:
        _write_json(options, found)
    print(_table(found))
    is_clean = all(f.is_clean for f in found)
    if options.planted:
        print(f"planted {options.planted}: {'missed' if is_clean else 'caught'}")
    return int(is_clean if options.planted else not is_clean)


def _build() -> Path:
    command = ["make", "-s", "-C", str(REPO / "native"), "OUT=build/power", _PROGRAM]
    run(command, what="build the program that opens layers")
    return REPO / "native" / _PROGRAM


def _record(options: argparse.Namespace, names: list[str], folder: Path) -> None:
    say(f"guest {options.kernel}: record {', '.join(names)}")
    inside = [sys.executable, "-m", "chaos.power.recording", "--seed", str(options.seed)]
    inside += ["--operations", str(options.operations), "--kills", str(options.kills)]
    for name in names:
        inside += ["--file-system", name]
    if options.planted:
        hooked.build()  # the guest can not write to the checkout
        inside += ["--planted", options.planted]
    command = [sys.executable, "-m", "guest", "run", "--kernel", options.kernel]
    command += ["--memory", _MEMORY, "--timeout", str(_RECORD_S), "--result", str(folder)]
    guest = subprocess.Popen([*command, "--", *inside], cwd=REPO)  # its lines come as they are said
    try:
        status = guest.wait()
    except KeyboardInterrupt:
        guest.wait()  # it got the same Ctrl-C and ends its QEMU
        raise
    if status:
        raise RigError(f"the recording in the guest ended with {status}")


def _examine(
    options: argparse.Namespace, name: str, folder: Path, program: Path, scratch: Path
) -> Findings:
    say(f"{name}: {options.points} crash states, seed {options.seed}")
    place = scratch / name
    place.mkdir()
    examination = Examination(folder, name, program, place, say)
    try:
        return examination.run(options.points, options.seed)
    finally:
        examination.close()
        shutil.rmtree(place, ignore_errors=True)


def _write_json(options: argparse.Namespace, found: list[Findings]) -> None:
    report = {
        "seed": options.seed,
        "planted": options.planted,
        "is_clean": all(f.is_clean for f in found),
        "recordings": [f.to_json() for f in found],
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(report, indent=1) + "\n")


def _table(found: list[Findings]) -> str:
    rows = [
        ("file system", *(f.file_system for f in found)),
        ("requests in the log", *(f.entries for f in found)),
        ("flushes", *(f.flushes for f in found)),
        ("changes of the raw device", *(f.changes for f in found)),
        ("worker kills (in flight)", *(f"{f.worker_kills} ({f.kills_in_flight})" for f in found)),
        ("crash states", *(f.points.total() for f in found)),
        *((f"  {kind}", *(f.points[kind] for f in found)) for kind in
          ("flush", "order", "subset", "torn")),
        ("sectors and files checked", *(f.checked for f in found)),
        ("durable changes promised", *(f.promised for f in found)),
        ("lost", *(len(f.lost) for f in found)),
        ("corrupt", *(len(f.corrupt) for f in found)),
        ("layers not opened", *(len(f.unopened) for f in found)),
        ("torn tails cut", *(f.repaired_tails for f in found)),
        ("fsck complaints", *(len(f.fsck) for f in found)),
        ("supervisors started", *(f.supervisor_starts for f in found)),
        ("state directory", *(len(f.state) for f in found)),
    ]  # fmt: skip
    lines = [f"{row[0]:<28}" + "".join(f"{cell!s:>14}" for cell in row[1:]) for row in rows]
    for f in found:
        for kind in ("lost", "corrupt", "unopened", "fsck", "state"):
            lines += [f"{f.file_system} {kind}: {line}" for line in getattr(f, kind)[:5]]
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
