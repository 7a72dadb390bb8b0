"""``python -m guest.checks MODULE...``: the checks of several modules in one boot of the guest.

Their names in the report are MODULE.CHECK.
"""

from __future__ import annotations

import importlib
import sys

from guest.checks.report import Check, run_checks


def main(modules: list[str]) -> int:
    """Runs them in the order given; 0 when all held."""
    checks: dict[str, Check] = {}
    for module in modules:
        found = importlib.import_module(f"guest.checks.{module}").CHECKS
        checks |= {f"{module}.{name}": check for name, check in found.items()}
    return run_checks(checks, [])


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
