"""Searches the models with Spin: every reachable state of the protocol, and of known-bad ones.

    model/check.py small      what `make check` runs: every property, 70 s of CPU
    model/check.py large      deeper, by hand: minutes, and some GiB
    model/check.py variants   refutes each known-bad variant by a search of its own
    model/check.py trails     the same, and stores the trails (after every change of a model)
    model/check.py show NAME  replays a stored trail, one line per step

Exit 0 when everything is as it should be. Needs `spin` and `gcc`. See DESIGN.md.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
TRAILS = HERE / "trails"

ASSERTION = "assertion violated"
STUCK = "invalid end state"
LOOP = "acceptance cycle"


@dataclass(frozen=True, slots=True)
class Size:
    """One exhaustive search: a model, its bounds, and an LTL property or "" for all assertions."""

    name: str
    model: str
    defines: str
    ltl: str = ""
    max_depth: int = 1_000_000


@dataclass(frozen=True, slots=True)
class Variant:
    """A design that is known to be bad, and how the search must find it out."""

    name: str
    model: str
    defines: str
    error: str
    shows: str


@dataclass(frozen=True, slots=True)
class Result:
    """What a search ended with. ``error`` is "" when the whole space was searched without one."""

    error: str
    states: int
    memory_mib: float
    elapsed_s: float
    output: str


# Fine: every store a step. Coarse: see DESIGN.md.
_ALONE = "NSUPER=0 NHAND=0"
SMALL = (
    Size("ring, every store, 1 death", "ring", f"CHECK NDEATH=1 {_ALONE}"),
    Size("ring, 2 deaths, also in recovery", "ring", f"CHECK COARSE NDEATH=2 {_ALONE}"),
    Size("hand-over, 1 death", "ring", "CHECK COARSE NDEATH=1 NSUPER=0 NHAND=1"),
    Size("hand-over, supervisor dies", "ring", "CHECK COARSE NDEATH=0 NSUPER=1 NHAND=1"),
    Size("foreign journal, 1 death", "ring", f"CHECK COARSE NDEATH=1 NFOREIGN=1 {_ALONE}"),
    Size("foreign journal, supervisor dies", "ring",
         "CHECK COARSE NDEATH=0 NSUPER=1 NHAND=0 NFOREIGN=1"),
    Size("writable layer, 2 deaths", "upper", "NDEATH=2"),
    *(Size(f"ltl {name}", "ring", f"GHOSTS COARSE NDEATH=1 {_ALONE}", name)
      for name in ("i1", "i2", "i3", "i4", "i5")),
    Size("ltl i6", "ring", f"GHOSTS COARSE NDEATH=0 NFOREIGN=1 {_ALONE}", "i6"),
    Size("ltl kept", "upper", "NDEATH=1", "kept"),
)  # fmt: skip
LARGE = (
    # The first death leaves something to recover, the second comes while it is recovered.
    Size("ltl i5, 2 deaths", "ring", f"GHOSTS COARSE NDEATH=2 {_ALONE}", "i5"),
    Size("supervisor and worker die", "ring", "CHECK COARSE NDEATH=1 NSUPER=1 NHAND=0"),
    Size("ring, every store, 2 deaths", "ring", f"CHECK NDEATH=2 {_ALONE}"),
    Size("both die, hand-over", "ring", "CHECK COARSE NDEATH=1 NSUPER=1 NHAND=1"),
    Size("4 commands, 2 deaths", "ring", f"CHECK COARSE NREQ=4 NDEATH=2 {_ALONE}"),
    Size("3 in flight at once, 2 deaths", "ring",
         f"CHECK COARSE RING=4 NSLOT=3 NDEATH=2 {_ALONE}"),
    Size("both die, foreign journal", "ring", "CHECK COARSE NDEATH=1 NSUPER=1 NHAND=0 NFOREIGN=1"),
    Size("writable layer, 3 deaths", "upper", "NDEATH=3 NHAND=2"),
    Size("ltl i1, hand-over", "ring", "GHOSTS COARSE NDEATH=1 NSUPER=0 NHAND=1", "i1"),
)  # fmt: skip
# Holds without what the design calls its other lines: the lock alone keeps a second server away.
REDUNDANT = (
    Size("the lock alone", "ring", f"CHECK COARSE NO_PROOF NO_GENERATION NDEATH=1 {_ALONE}"),
)

_ONE_DEATH = f"NDEATH=1 {_ALONE}"
_NO_FENCE = f"COARSE NO_PROOF NO_LOCK TWO_SERVERS=true {_ONE_DEATH}"
VARIANTS = (
    Variant("ring_only", "ring", f"RING_ONLY {_ONE_DEATH}", ASSERTION,
            "recovery that trusts [tail, head) executes an entry whose request is overwritten"),
    Variant("no_record", "ring", f"NO_RECORD {_ONE_DEATH}", ASSERTION,
            "without the record a command is executed again after its answer (I2)"),
    Variant("record_after_tail", "ring", f"RECORD_AFTER_TAIL {_ONE_DEATH}", ASSERTION,
            "a death between tail and record: executed again after its answer (I2)"),
    Variant("free_before_tail", "ring", f"FREE_BEFORE_TAIL {_ONE_DEATH}", STUCK,
            "a death between the two loses the command (I1)"),
    Variant("drop_by_offset", "ring", f"DROP_BY_OFFSET {_ONE_DEATH}", STUCK,
            "after one lap of the ring a command in flight is taken for the next one (I1)"),
    Variant("no_sequence_check", "ring", f"NO_SEQUENCE_CHECK {_ONE_DEATH}", ASSERTION,
            "a death between slot and next: one command has two slots"),
    Variant("split_next", "ring", f"SPLIT_NEXT {_ONE_DEATH}", STUCK,
            "sequence and offset of next must be one store"),
    Variant("no_kick", "ring", f"NO_KICK {_ONE_DEATH}", STUCK,
            "a death between tail and kick: the kernel is never told (I1)"),
    Variant("new_before_replay", "ring", f"NEW_BEFORE_REPLAY {_ONE_DEATH}", ASSERTION,
            "a recovered write lands over one that came after it"),
    Variant("no_lock", "ring", "COARSE NO_LOCK ADOPT_ATTACHING NDEATH=0 NSUPER=1 NHAND=0",
            ASSERTION,
            "the order of a dead supervisor is carried out beside the one of its successor (I3)"),
    Variant("no_generation", "ring", f"{_NO_FENCE} NO_GENERATION", ASSERTION,
            "a worker taken for dead wakes up and publishes: the ring breaks (I4)"),
    Variant("generation_alone", "ring", _NO_FENCE, ASSERTION,
            "it wakes up behind the comparison: the generation is the second line only (I4)"),
    Variant("adopt_leaving", "ring", "COARSE ADOPT_LEAVING NDEATH=0 NSUPER=1 NHAND=1", STUCK,
            "adopted while it drains for a dead supervisor: nobody serves, and nobody knows (I1)"),
    Variant("adopt_attaching", "ring",
            "COARSE ADOPT_ATTACHING NDEATH=0 NSUPER=1 NHAND=0 NFOREIGN=1", ASSERTION,
            "it formats the journal for a dead supervisor, the next one resets the ring (I6)"),
    Variant("no_high_water", "upper", "NO_HIGH_WATER NDEATH=1", ASSERTION,
            "a write of the dead lands where the successor appended"),
    Variant("mark_after_data", "upper", "MARK_AFTER_DATA NDEATH=1", ASSERTION,
            "a death between data and mark: the same"),
    Variant("index_late", "upper", "INDEX_LATE NDEATH=1", ASSERTION,
            "the mark guards data only: a record that outlives its process overwrites another"),
    Variant("two_writers", "upper", "TWO_WRITERS NDEATH=0", ASSERTION,
            "without the writer's lock two append at the same place"),
    Variant("forget_mark", "upper", "FORGET_MARK NDEATH=1", ASSERTION,
            "a journal that is refused takes the mark with it (a limit, see DESIGN.md)"),
)  # fmt: skip


def _flags(defines: str) -> list[str]:
    return [f"-D{define}" for define in defines.split()]


def _run(argv: list[str], work: Path) -> str:
    done = subprocess.run(argv, cwd=work, capture_output=True, text=True)
    if done.returncode != 0 and argv[0] != "./pan":
        raise SystemExit(f"{' '.join(argv)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def _build(model: str, defines: str, ltl: str, work: Path, *extra: str) -> None:
    source = HERE / f"{model}.pml"
    _run(["spin", *_flags(defines), "-a", str(source)], work)
    kind = ["-DNFAIR=3"] if ltl else ["-DSAFETY", "-DNOCLAIM"]
    options = [*kind, "-DCOLLAPSE", "-DMEMLIM=16000", *extra]
    _run(["gcc", "-O2", "-w", *options, "pan.c", "-o", "pan"], work)


def search(size: Size, work: Path) -> Result:
    """Searches every reachable state; liveness under weak fairness.

    Raises:
        SystemExit: spin or gcc failed, or the search was cut off by memory or depth.
    """
    _build(size.model, size.defines, size.ltl, work)
    how = ["-a", "-f", "-N", size.ltl] if size.ltl else []
    output = _run(["./pan", f"-m{size.max_depth}", "-n", *how], work)
    if "errors:" not in output or "max search depth too small" in output:
        raise SystemExit(f"{size.name}: the search was cut off:\n{output}")
    return _result(output)


def _number(pattern: str, output: str) -> float:
    found = re.search(pattern, output)
    return float(found[1]) if found else 0.0


def _result(output: str) -> Result:
    error = re.search(r"pan:\d+: (.*?) \(at depth", output)
    return Result(
        error=error[1] if error else "",
        states=int(_number(r"(\d+) states, stored", output)),
        memory_mib=_number(r"([\d.]+)\s+total actual memory usage", output),
        elapsed_s=_number(r"elapsed time ([\d.]+) seconds", output),
        output=output,
    )


def refute(variant: Variant, work: Path) -> str:
    """Searches for a counterexample, breadth first: the shortest one; "" if there is none."""
    _build(variant.model, variant.defines, "", work, "-DBFS")
    return _result(_run(["./pan", "-n"], work)).error


def replay(variant: Variant) -> str:
    """Follows the stored trail in today's model; what it ends with, ASSERTION, STUCK or "".

    A trail that no longer fits the model ends with "": `model/check.py trails` makes it anew.
    """
    output = _replayed(variant)
    if "spin: trail ends after" not in output and ASSERTION not in output:
        return ""
    if ASSERTION in output:
        return ASSERTION
    kernel = re.findall(r"proc +\d+ \((?:Kernel|Caller):\d+\)[^\n]*", output)
    is_waiting = bool(kernel) and "valid end state" not in kernel[-1]
    return STUCK if is_waiting else ""


def _replayed(variant: Variant, *how: str) -> str:
    trail = TRAILS / f"{variant.name}.trail"
    model = HERE / f"{variant.model}.pml"
    with tempfile.TemporaryDirectory() as work:
        argv = ["spin", *_flags(variant.defines), *how, "-k", str(trail), str(model)]
        return _run(argv, Path(work))


def _search_apart(size: Size) -> Result:
    with tempfile.TemporaryDirectory() as work:
        return search(size, Path(work))


def search_all(sizes: Iterable[Size], jobs: int = 2) -> Iterator[tuple[Size, Result]]:
    """All searches, ``jobs`` at a time; given out in their order, as they end."""
    chosen = list(sizes)
    with ThreadPoolExecutor(jobs) as pool:
        yield from zip(chosen, pool.map(_search_apart, chosen), strict=True)


def _print_sizes(sizes: Iterable[Size], jobs: int) -> int:
    wrong = 0
    print(f"{'search':<36}{'states':>12}{'MiB':>8}{'s':>8}")
    for size, result in search_all(sizes, jobs):
        print(f"{size.name:<36}{result.states:>12,}{result.memory_mib:>8.0f}"
              f"{result.elapsed_s:>8.1f}  {result.error or 'holds'}", flush=True)  # fmt: skip
        wrong += bool(result.error)
    return wrong


def _refute_all(*, keep: bool) -> int:
    wrong = 0
    for variant in VARIANTS:
        with tempfile.TemporaryDirectory() as work:
            error = refute(variant, Path(work))
            if keep and error.startswith(variant.error):
                TRAILS.mkdir(exist_ok=True)
                trail = Path(work) / f"{variant.model}.pml.trail"
                (TRAILS / f"{variant.name}.trail").write_bytes(trail.read_bytes())
        is_refuted = error.startswith(variant.error)
        wrong += not is_refuted
        print(f"{variant.name:<20}{'refuted: ' + error if is_refuted else 'NOT REFUTED ' + error}")
    return wrong


def _show(name: str) -> int:
    for variant in VARIANTS:
        if variant.name == name:
            print(_replayed(variant, "-p", "-g"))
            return 0
    print(f"no variant {name}; there are {', '.join(v.name for v in VARIANTS)}", file=sys.stderr)
    return 2


def main(argv: list[str]) -> int:
    """Runs one of the commands of the module's docstring; the exit code."""
    match argv:
        case ["small"]:
            return min(_print_sizes(SMALL, jobs=2), 1)
        case ["large"]:
            return min(_print_sizes((*LARGE, *REDUNDANT), jobs=1), 1)
        case ["variants"]:
            return min(_refute_all(keep=False), 1)
        case ["trails"]:
            return min(_refute_all(keep=True), 1)
        case ["show", name]:
            return _show(name)
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
