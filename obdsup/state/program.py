"""How another program of this very release is started."""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["program_command"]


def program_command(module: str) -> tuple[str, ...]:
    """The command that runs ``module`` of the package that this process runs.

    Without ``-P`` Python looks into the working directory first, where another release may lie: a
    supervisor would drive workers, or become a supervisor, of which it knows nothing. Only where
    the package was found there itself is that wanted.
    """
    found_in = Path(os.path.abspath(__file__)).parents[2]
    flags = () if found_in == Path.cwd() else ("-P",)
    return (sys.executable, *flags, "-m", module)
