"""``python -m chaos.planted``: plants one bug after the other in real workers and has it caught.

Each bug runs under a load whose every read is checked, with kills at random and at named points,
until something is found. Exit code 0: every bug was caught; with --none: nothing was found, though
nothing but the surroundings of the bugs was planted. 1: not so; 2: wrong usage.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from chaos.planted.bugs import BUGS, CONTROLS, Bug, bug_named
from chaos.planted.power_cut import run_power_cuts
from chaos.planted.trial import Verdict, run_trial
from chaos.rig.problem import REPO, RigError, say

EVENTS_OF_A_BUG = 40
EVENTS_OF_A_CONTROL = 26
EXIT_USAGE = 2
_COLUMNS = "{:34} {:>5} {:>6} {:>5} {:>9} {:>8}  {}"


def main(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    try:
        bugs = [bug_named(name) for name in options.bug] if options.bug else list(BUGS)
    except RigError as error:
        say(f"planted: {error}")
        return EXIT_USAGE
    if options.none:
        bugs = list(CONTROLS)
    head = ("bug", "seed", "events", "kills", "commands", "seconds", "caught by")
    say(_COLUMNS.format(*head))
    verdicts = []
    for bug in bugs:
        seed = bug.seed if options.seed is None else options.seed
        event_cnt = max(EVENTS_OF_A_CONTROL, len(bug.events)) if options.none else EVENTS_OF_A_BUG
        verdict = _try_out(bug, seed, event_cnt)
        verdicts.append(verdict)
        say(_line(verdict))
    is_good = all(verdict.is_as_wanted for verdict in verdicts)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    document = {"good": is_good, "trials": [verdict.to_json() for verdict in verdicts]}
    options.json.write_text(json.dumps(document, indent=2) + "\n")
    as_wanted = sum(verdict.is_as_wanted for verdict in verdicts)
    wanted = "controls clean" if options.none else "bugs caught"
    say(f"planted: {as_wanted} of {len(verdicts)} {wanted}; written: {options.json}")
    return 0 if is_good else 1


def _try_out(bug: Bug, seed: int, event_cnt: int) -> Verdict:
    try:
        return run_power_cuts(bug, seed) if bug.is_durability else run_trial(bug, seed, event_cnt)
    except RigError as error:
        return Verdict(bug, seed, detail=f"not carried out: {error}", has_failed=True)


def _line(verdict: Verdict) -> str:
    caught = ", ".join(f"{kind} {count}" for kind, count in sorted(verdict.caught_by.items()))
    line = _COLUMNS.format(
        verdict.bug.name or f"({verdict.bug.about})",
        verdict.seed,
        verdict.events,
        verdict.kills,
        verdict.commands,
        f"{verdict.seconds:.1f}",
        caught or "-",
    )
    return line if verdict.is_as_wanted else f"{line}  WRONG {verdict.detail}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m chaos.planted", description=__doc__)
    add = parser.add_argument
    add("--bug", nargs="+", metavar="NAME", help="only these (default: all)")
    add("--none", action="store_true", help="no bug: must find nothing")
    add("--seed", type=int, help="instead of the seed that is known to show each bug")
    add("--json", type=Path, default=REPO / "out" / "planted.json")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
