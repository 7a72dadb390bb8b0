"""chaos.json and the records beside it: written in one step, read back for the report."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chaos.campaign.outcome import CampaignOutcome
from chaos.rig.problem import RigError

__all__ = ["command_of", "load_outcomes", "records_path", "save_outcomes"]


def records_path(json_path: Path) -> Path:
    """Where the full records lie: ``out/chaos.json`` has ``out/chaos-records.json``."""
    return json_path.with_name(f"{json_path.stem}-records.json")


def save_outcomes(outcomes: Sequence[CampaignOutcome], json_path: Path) -> None:
    """Writes both files; each is replaced as a whole or stays as it was."""
    json_path.parent.mkdir(parents=True, exist_ok=True)
    _replace(json_path, {"campaigns": [outcome.to_json() for outcome in outcomes]})
    records = {"campaigns": [outcome.to_record() for outcome in outcomes]}
    _replace(records_path(json_path), records, indent=None)


def load_outcomes(json_path: Path) -> list[CampaignOutcome]:
    """The campaigns of a file written by ``save_outcomes``.

    Raises:
        RigError: there are no records, or they are not ours.
    """
    path = records_path(json_path)
    try:
        rows = json.loads(path.read_text())["campaigns"]
        return [CampaignOutcome.from_record(row) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RigError(f"the records {path} can not be read: {error!r}") from error


def command_of(reference: str) -> str:
    """The command line of campaign N (from 0) of ``FILE#N``; ``FILE`` alone is its first.

    Raises:
        RigError: there is no such campaign; says how many there are.
    """
    name, _, number = reference.partition("#")
    try:
        campaigns = json.loads(Path(name).read_text())["campaigns"]
        return str(campaigns[int(number or 0)]["command"])
    except IndexError as error:
        count = len(campaigns)
        raise RigError(f"{name} has {count} campaigns, #0 to #{count - 1}: {reference}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RigError(f"no campaign at {reference}: {error!r}") from error


def _replace(path: Path, value: dict[str, Any], indent: int | None = 2) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(value, indent=indent) + "\n")
    os.replace(temporary, path)
