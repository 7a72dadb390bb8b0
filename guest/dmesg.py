"""Is the kernel log silent about us? From a marker on, no complaint of the block or SCSI layers.

``python -m guest.dmesg MARKER [FILE]`` prints the offending lines and exits 1 when there are any;
without FILE it reads the log of the running kernel. In a guest, ``mark`` writes the marker.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

__all__ = ["complaints", "mark"]

_COMPLAINTS = re.compile(
    r"\bBUG\b|WARNING|\bWARN\b|\bOops\b|Call Trace|I/O error|blk_update_request|Buffer I/O"
    r"|broken|Logical unit|EXT4-fs (?:error|warning)|Remounting filesystem read-only"
    r"|hung_task|blocked for more than|rcu_\w+ .*stall|tcmu?[ :].*(?:error|fail|not found|timed)"
    r"|TARGET_CORE|target_core.*(?:error|fail)|loopback.*fail"
    r"|sd \S+ .*(?:FAILED|Sense|timing out|aborting|synchronize cache.*failed)"
    r"|Device offlined|rejecting I/O|critical (?:medium|target)",
    re.IGNORECASE,
)
_HARMLESS = re.compile(r"Mode Sense:")  # sd's line about every new disk


def complaints(log: str, marker: str) -> list[str]:
    """The lines after the last one that holds ``marker`` which a healthy run never causes.

    Raises:
        ValueError: the marker is not in the log: it was lost, and nothing can be said.
    """
    lines = log.splitlines()
    found = [number for number, line in enumerate(lines) if marker in line]
    if not found:
        raise ValueError(f"no line of the kernel log holds the marker {marker!r}")
    after = lines[found[-1] + 1 :]
    return [line for line in after if _COMPLAINTS.search(line) and not _HARMLESS.search(line)]


def mark(marker: str) -> None:
    """Writes the marker into the log of the running kernel; needs root."""
    Path("/dev/kmsg").write_text(f"{marker}\n")


def main(arguments: list[str]) -> int:
    if len(arguments) == 2:
        log = Path(arguments[1]).read_text(errors="replace")
    elif len(arguments) == 1:
        log = subprocess.run(["dmesg"], capture_output=True, text=True, check=True).stdout
    else:
        print("usage: python -m guest.dmesg MARKER [FILE]", file=sys.stderr)
        return 2
    found = complaints(log, arguments[0])
    print("\n".join(found) if found else "kernel log clean")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
