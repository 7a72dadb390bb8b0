"""The command ``obdsup-chaos``: campaigns of faults under verified load.

Exit codes: 0 every zero is a zero and every planned kind of fault landed, 1 not so, 2 wrong usage,
130 interrupted (what was found until then is written).
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from chaos import report
from chaos.campaign.here import new_outcome, run_here
from chaos.campaign.outcome import CampaignOutcome
from chaos.campaign.request import add_run_options, chosen_seed
from chaos.campaign.store import command_of, save_outcomes
from chaos.rig.problem import RigError, say

__all__ = ["main"]

EXIT_FINDINGS = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
EPILOG = """examples:
  obdsup-chaos run --kills 500                       500 worker kills under ringd's verified load
  obdsup-chaos run --faults all --seconds 60         every fault this place allows, for a minute
  obdsup-chaos replay out/chaos.json#0               the same campaign again: same seed, same plan
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupted)
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
    options.seed = chosen_seed(options)
    outcome = new_outcome(options)
    try:
        run_here(options, outcome)
    except KeyboardInterrupt:
        _write([outcome], options.json)
        raise
    return _write([outcome], options.json)


def _replay(options: argparse.Namespace) -> int:
    words = shlex.split(command_of(options.campaign))
    if options.json is not None:
        words += ["--json", str(options.json)]
    return main(words[1:])


def _write(outcomes: Sequence[CampaignOutcome], json_path: Path) -> int:
    """Writes the result and its report; the exit code it stands for."""
    save_outcomes(outcomes, json_path)
    report.print_summary(outcomes, Console(width=110 if not sys.stdout.isatty() else None))
    pages = report.write(outcomes, json_path.parent / json_path.stem)
    say(f"written: {json_path}, {pages[0]}")
    return EXIT_FINDINGS if any(outcome.problems() for outcome in outcomes) else 0


_interruptions = 0


def _interrupted(_number: int, _frame: object) -> None:
    # The first ends the faults, the second the verification; the taking down is not broken off.
    global _interruptions
    _interruptions += 1
    if _interruptions <= 2:
        raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="obdsup-chaos", description=__doc__, epilog=EPILOG, formatter_class=raw
    )
    commands = parser.add_subparsers(dest="verb", metavar="COMMAND", required=True)
    run = commands.add_parser("run", help="one campaign", epilog=EPILOG, formatter_class=raw)
    add_run_options(run)
    run.set_defaults(act=_run)
    replay = commands.add_parser("replay", help="a campaign of a result file once more")
    replay.add_argument("campaign", metavar="FILE#N", help="campaign N (from 0) of a chaos.json")
    replay.add_argument("--json", type=Path, help="where the result goes (out/chaos.json)")
    replay.set_defaults(act=_replay)
    return parser


if __name__ == "__main__":
    sys.exit(main())
