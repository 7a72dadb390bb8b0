"""The command ``obdsup-chaos``: campaigns of faults under verified load.

Exit codes: 0 every zero is a zero and every planned kind of fault landed, 1 not so, 2 wrong usage,
130 interrupted (what was found until then is written).
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from chaos import report
from chaos.campaign.away import run_away
from chaos.campaign.here import new_outcome, run_here
from chaos.campaign.interruption import Interruption
from chaos.campaign.inventory import print_inventory, usable
from chaos.campaign.outcome import CampaignOutcome
from chaos.campaign.request import DEFAULT_JSON, add_run_options, chosen_seed
from chaos.campaign.store import command_of, save_outcomes
from chaos.campaign.suite import suite
from chaos.rig.problem import RigError, say

__all__ = ["main"]

INTERRUPTION = Interruption()
EXIT_FINDINGS = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
GUEST_WORKLOADS = "sectors,redis"  # few: an emulated machine is slow
EPILOG = """examples:
  obdsup-chaos run --kills 500                       500 worker kills under ringd's verified load
  obdsup-chaos run --faults all --seconds 60         every fault this place allows, for a minute
  obdsup-chaos run --provider fuse --workloads fio --kills 50
                                                     block devices of this host; needs root
  obdsup-chaos run --provider tcmu --where guest --workloads fio --kills 20
                                                     the kernel's own ring, in an emulated guest
  obdsup-chaos list                                  faults and workloads, what is missing here
  obdsup-chaos replay out/chaos.json#0               the same campaign again: same seed, same plan
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    INTERRUPTION.install()
    options = _parser().parse_args(sys.argv[1:] if arguments is None else arguments)
    try:
        return int(options.act(options))
    except ValueError as error:
        print(f"obdsup-chaos: {error}", file=sys.stderr)
        return EXIT_USAGE
    except RigError as error:
        say(f"obdsup-chaos: FAILED: {error}")
        return EXIT_FINDINGS
    except KeyboardInterrupt:
        say("obdsup-chaos: interrupted; everything was taken down")
        return EXIT_INTERRUPTED


def _run(options: argparse.Namespace) -> int:
    outcomes: list[CampaignOutcome] = []
    try:
        _carry_out(options, outcomes)
    finally:
        code = _write(outcomes, options)
    return code


def _carry_out(options: argparse.Namespace, outcomes: list[CampaignOutcome]) -> None:
    """Runs one campaign and appends its outcome, also when it is interrupted."""
    options.seed = chosen_seed(options)
    outcome = new_outcome(options)
    outcomes.append(outcome)
    if options.where == "guest":
        outcomes[-1] = run_away(options, outcome)
        return
    try:
        run_here(options, outcome, INTERRUPTION)
    except ValueError:  # nothing was run: nothing to report
        outcomes.pop()
        raise


def _all(options: argparse.Namespace) -> int:
    outcomes: list[CampaignOutcome] = []
    seed = chosen_seed(options)
    say(f"obdsup-chaos: all campaigns from seed {seed}")
    try:
        for words in suite(seed, options.host, options.guest, is_long=options.long):
            one = _parser().parse_args(["run", *words, "--json", str(options.json)])
            _carry_out(one, outcomes)
            save_outcomes(outcomes, options.json)  # what is done is kept, whatever comes
    finally:
        code = _write(outcomes, options)
    return code


def _replay(options: argparse.Namespace) -> int:
    words = shlex.split(command_of(options.campaign))
    return main([*words[1:], "--json", str(options.json)])


def _list(_options: argparse.Namespace) -> int:
    print_inventory(Console())
    return 0


def _write(outcomes: Sequence[CampaignOutcome], options: argparse.Namespace) -> int:
    """Writes the result and its report; the exit code it stands for."""
    if not outcomes:
        return EXIT_FINDINGS
    json_path: Path = options.json
    save_outcomes(outcomes, json_path)
    say(f"written: {json_path}")
    if not options.no_report:
        report.print_summary(outcomes, Console(width=None if sys.stdout.isatty() else 110))
        pages = report.write(outcomes, json_path.parent / json_path.stem)
        say(f"written: {pages[0]}")
    return EXIT_FINDINGS if any(outcome.problems() for outcome in outcomes) else 0


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="obdsup-chaos", description=__doc__, epilog=EPILOG, formatter_class=raw
    )
    commands = parser.add_subparsers(dest="verb", metavar="COMMAND", required=True)
    run = commands.add_parser("run", help="one campaign", epilog=EPILOG, formatter_class=raw)
    add_run_options(run)
    run.set_defaults(act=_run)
    every = commands.add_parser("all", help="the campaigns of `make chaos`, one after the other")
    every.add_argument("--long", action="store_true", help="at least 10,000 kills, both kernels")
    every.add_argument("--seed", type=int, help="of the first; the others follow")
    every.add_argument(
        "--host", default=",".join(usable()), metavar="A,B", help="workloads on the host (all)"
    )
    every.add_argument("--guest", default=GUEST_WORKLOADS, metavar="A,B", help="in the guest")
    every.add_argument("--json", type=Path, default=DEFAULT_JSON)
    every.set_defaults(act=_all, no_report=False)
    replay = commands.add_parser("replay", help="a campaign of a result file once more")
    replay.add_argument("campaign", metavar="FILE#N", help="campaign N (from 0) of a chaos.json")
    replay.add_argument("--json", type=Path, default=DEFAULT_JSON, help="where the result goes")
    replay.set_defaults(act=_replay)
    known = commands.add_parser("list", help="faults and workloads, and what each needs")
    known.set_defaults(act=_list)
    return parser


if __name__ == "__main__":
    sys.exit(main())
