"""``obdsup-chaos list``: faults and workloads, what each needs, and what is missing here."""

from __future__ import annotations

import shutil

from rich.console import Console
from rich.table import Table

from chaos.campaign.installation import is_guest, offered
from chaos.faults.catalogue import CATALOGUE as FAULTS
from chaos.faults.catalogue import missing_needs
from chaos.workloads.catalogue import CATALOGUE as WORKLOADS
from chaos.workloads.catalogue import WorkloadEntry

__all__ = ["print_inventory", "usable"]

PROVIDERS = ("load", "fuse", "tcmu")


def print_inventory(console: Console) -> None:
    """Prints both tables."""
    console.print(_fault_table())
    console.print(_workload_table())


def usable() -> list[str]:
    """The workloads whose tools are all here."""
    return [name for name, entry in WORKLOADS.items() if not _missing_tools(entry)]


def _missing_tools(entry: WorkloadEntry) -> list[str]:
    return [tool for tool in entry.tools if shutil.which(tool) is None]


def _fault_table() -> Table:
    table = Table(title="faults (--faults), and with which provider each can be inflicted")
    table.add_column("kind", no_wrap=True)
    table.add_column("what is done, and what must come of it")
    for provider in PROVIDERS:
        table.add_column(provider)
    for entry in FAULTS.values():
        cells = []
        for provider in PROVIDERS:
            offers = offered(provider, has_hooks=True, is_guest=provider == "tcmu" or is_guest())
            missing = missing_needs(entry, provider, offers)
            cells.append("; ".join(missing) or "yes")
        table.add_row(entry.fault.kind, entry.fault.about, *cells)
    return table


def _workload_table() -> Table:
    table = Table(
        title="workloads (--workloads), one device each; with provider load it is ringd's own"
    )
    table.add_column("name", no_wrap=True)
    table.add_column("what it does, and how it judges")
    table.add_column("container")
    table.add_column("here")
    for name, entry in WORKLOADS.items():
        missing = _missing_tools(entry)
        here = f"no {', '.join(missing)}" if missing else "yes"
        table.add_row(name, entry.about, "yes" if entry.has_container else "", here)
    return table
