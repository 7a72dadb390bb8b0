"""What the load generator (``obdsup-ringd load``) found on its device, while it runs and after."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from pathlib import Path
from typing import Any

from chaos.rig.problem import RigError

__all__ = ["UNNAMED", "Generator"]

UNNAMED = "wrong"

_ANSWER_BYTES = 65536
_ANSWER_S = 5.0
_REPORTED = ("lost", "stale", "misplaced", "corrupt", "errors", "unfinished")


class Generator:
    """The generator of one device.

    Args:
        rings: the folder of its socket, log and report.
        device: its name.
    """

    def __init__(self, rings: Path, device: str) -> None:
        self.device = device
        self._rings = rings

    def findings(self) -> dict[str, int]:
        """What it has found so far; empty when all is well. Bad sectors are not told apart yet."""
        stat = self.stat()
        counts = {
            "ring broken": int(stat.get("broken", "0")),
            "journal refused": int(stat.get("resets", "0")),
            UNNAMED: int(stat.get("failures", "0")),
        }
        return {kind: count for kind, count in counts.items() if count}

    def report(self) -> tuple[dict[str, int], list[str]]:
        """What it found in the end, by kind, and lines about it; after the device was removed.

        Raises:
            RigError: it wrote no report.
        """
        path = self._rings / f"{self.device}.json"
        try:
            report: dict[str, Any] = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise RigError(f"the generator of {self.device} left no report: {error}") from error
        counts = {kind: int(report[kind]) for kind in _REPORTED}
        counts["ring broken"] = int(report["broken"])
        counts["journal refused"] = int(report["resets"])
        lines = [f"{row['kind']}: {row['text']}" for row in report["findings"]]
        return {kind: count for kind, count in counts.items() if count}, lines

    def stat(self) -> dict[str, str]:
        """The numbers of its ring; empty when it does not answer."""
        try:
            text = self._ask("stat")
        except OSError:
            return {}
        head, _, reason = text.partition(" broken_reason=")
        pairs = dict(pair.split("=", 1) for pair in head.split() if "=" in pair)
        return {**pairs, "broken_reason": reason} if reason else pairs

    def abandon(self) -> None:
        """Ends it without reading anything back. Fine when it is gone."""
        with contextlib.suppress(OSError):
            self._ask("stop force")

    def _ask(self, request: str) -> str:
        # by way of the directory: a socket address holds 107 bytes only
        directory = os.open(self._rings, os.O_PATH | os.O_CLOEXEC)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as link:
                link.settimeout(_ANSWER_S)
                link.connect(f"/proc/self/fd/{directory}/{self.device}.sock")
                link.send(request.encode())
                return link.recv(_ANSWER_BYTES).decode()
        finally:
            os.close(directory)
